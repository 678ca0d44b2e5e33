"""Version 1: records, edges, events, pointers, series blocks.

Texts compare by their bytes and integers have 64 bits on every database, as SQLite's do by themselves.
"""

import sqlalchemy as sa
from alembic.operations import Operations

__all__ = ["upgrade"]

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_DIGEST = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")
_INTEGER = sa.Integer().with_variant(sa.BigInteger(), "postgresql")


def upgrade(to: Operations) -> None:
    _records_and_edges(to)
    _events_and_pointers(to)
    to.create_table(
        "series_block",
        sa.Column("run", _TEXT, primary_key=True),
        sa.Column("series", _TEXT, primary_key=True),
        sa.Column("attempt", _INTEGER, primary_key=True),
        sa.Column("first_step", _INTEGER, primary_key=True),
        sa.Column("last_step", _INTEGER, nullable=False),
        sa.Column("count", _INTEGER, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )


def _records_and_edges(to: Operations) -> None:
    to.create_table(
        "record",
        sa.Column("position", _INTEGER, primary_key=True, autoincrement=False),
        sa.Column("digest", _DIGEST, unique=True, nullable=False),
        sa.Column("kind", _TEXT, nullable=False),
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("created", _TEXT, nullable=False),
        sa.Column("actor", _TEXT, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
    )
    to.create_index("record_by_kind", "record", ["kind", "name", "position"])
    to.create_table(
        "edge",
        sa.Column("src", _TEXT, primary_key=True),
        sa.Column("role", _TEXT, primary_key=True),
        sa.Column("dst", _TEXT, primary_key=True),
    )
    to.create_index("edge_by_dst", "edge", ["dst", "role"])


def _events_and_pointers(to: Operations) -> None:
    to.create_table(
        "event",
        sa.Column("subject", _TEXT, primary_key=True),
        sa.Column("seq", _INTEGER, primary_key=True),
        sa.Column("type", _TEXT, nullable=False),
        sa.Column("time", _TEXT, nullable=False),
        sa.Column("actor", _TEXT, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("previous", _TEXT, nullable=False),
        sa.Column("digest", _TEXT, nullable=False),
    )
    to.create_table(
        "pointer",
        sa.Column("subject", _TEXT, primary_key=True),
        sa.Column("value", _TEXT),
        sa.Column("revision", _INTEGER, nullable=False),
        sa.Column("moved", _TEXT, nullable=False),
    )
