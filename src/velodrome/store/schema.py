"""The tables of the ledger, the same for every database.

Version 1: the tables. Version 2: the index by which the newest records of a kind are found without reading all of them.
Version 3: facts, by which runs are searched. Version 4: the seals of records and edges.
`migrations/` has the steps between versions; what is declared here is where they end, which a test compares.
On PostgreSQL texts are compared by their bytes (collation "C"), as SQLite does, and integers have 64 bits, as SQLite's have.
"""

import sqlalchemy as sa

__all__ = ["VERSION", "edge", "event", "fact", "metadata", "pointer", "record", "series_block"]

VERSION = 4

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_DIGEST = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")
_INTEGER = sa.Integer().with_variant(sa.BigInteger(), "postgresql")

metadata = sa.MetaData()

record = sa.Table(
    "record",
    metadata,
    sa.Column("position", _INTEGER, primary_key=True, autoincrement=False),
    sa.Column("digest", _DIGEST, unique=True, nullable=False),
    sa.Column("kind", _TEXT, nullable=False),
    sa.Column("name", _TEXT, nullable=False),
    sa.Column("created", _TEXT, nullable=False),
    sa.Column("actor", _TEXT, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("seal", _TEXT, nullable=False, server_default=""),
    sa.Index("record_by_kind", "kind", "name", "position"),
    sa.Index("record_in_order", "kind", "position"),
)

edge = sa.Table(
    "edge",
    metadata,
    sa.Column("src", _TEXT, primary_key=True),
    sa.Column("role", _TEXT, primary_key=True),
    sa.Column("dst", _TEXT, primary_key=True),
    sa.Column("seal", _TEXT, nullable=False, server_default=""),
    sa.Index("edge_by_dst", "dst", "role"),
)

event = sa.Table(
    "event",
    metadata,
    sa.Column("subject", _TEXT, primary_key=True),
    sa.Column("seq", _INTEGER, primary_key=True),
    sa.Column("type", _TEXT, nullable=False),
    sa.Column("time", _TEXT, nullable=False),
    sa.Column("actor", _TEXT, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("previous", _TEXT, nullable=False),
    sa.Column("digest", _TEXT, nullable=False),
)

pointer = sa.Table(
    "pointer",
    metadata,
    sa.Column("subject", _TEXT, primary_key=True),
    sa.Column("value", _TEXT),
    sa.Column("revision", _INTEGER, nullable=False),
    sa.Column("moved", _TEXT, nullable=False),
)

series_block = sa.Table(
    "series_block",
    metadata,
    sa.Column("run", _TEXT, primary_key=True),
    sa.Column("series", _TEXT, primary_key=True),
    sa.Column("attempt", _INTEGER, primary_key=True),
    sa.Column("first_step", _INTEGER, primary_key=True),
    sa.Column("last_step", _INTEGER, nullable=False),
    sa.Column("count", _INTEGER, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)

fact = sa.Table(
    "fact",
    metadata,
    sa.Column("subject", _TEXT, primary_key=True),
    sa.Column("key", _TEXT, primary_key=True),
    sa.Column("number", sa.Double),
    sa.Column("text", _TEXT),
    sa.Index("fact_by_number", "key", "number", "subject"),
    sa.Index("fact_by_text", "key", "text", "subject"),
    sqlite_with_rowid=False,
)
