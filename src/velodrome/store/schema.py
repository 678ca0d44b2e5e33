"""The tables of the ledger, the same for every database. Version 1."""

import sqlalchemy as sa

__all__ = ["VERSION", "edge", "event", "metadata", "pointer", "record", "series_block"]

VERSION = 1

metadata = sa.MetaData()

record = sa.Table(
    "record",
    metadata,
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("digest", sa.String(64), unique=True, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("created", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Index("record_by_kind", "kind", "name", "position"),
)

edge = sa.Table(
    "edge",
    metadata,
    sa.Column("src", sa.Text, primary_key=True),
    sa.Column("role", sa.Text, primary_key=True),
    sa.Column("dst", sa.Text, primary_key=True),
    sa.Index("edge_by_dst", "dst", "role"),
)

event = sa.Table(
    "event",
    metadata,
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("time", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("previous", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
)

pointer = sa.Table(
    "pointer",
    metadata,
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("value", sa.Text),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("moved", sa.Text, nullable=False),
)

series_block = sa.Table(
    "series_block",
    metadata,
    sa.Column("run", sa.Text, primary_key=True),
    sa.Column("series", sa.Text, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("first_step", sa.Integer, primary_key=True),
    sa.Column("last_step", sa.Integer, nullable=False),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
