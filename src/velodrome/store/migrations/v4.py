"""Version 4: a seal in each record and each edge, by which a change of what no digest covers is seen.

What is there is sealed as it stands: what was changed before, only the anchors tell. What has no text for a key, which somebody
must have left there, stays without a seal, and so is told.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from alembic.operations import Operations

from velodrome.core.digest import digest_bytes

__all__ = ["upgrade"]

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_AT_ONCE = 5_000  # rows in memory

_RECORD = sa.table("record", *map(sa.column, ("position", "digest", "kind", "name", "created", "actor", "seal")))
_EDGE = sa.table("edge", *map(sa.column, ("src", "role", "dst", "seal")))


def upgrade(to: Operations) -> None:
    for table in ("record", "edge"):
        to.add_column(table, sa.Column("seal", _TEXT, nullable=False, server_default=""))
    _fill(to.get_bind(), _RECORD, [_RECORD.c.position], [_RECORD.c[name] for name in _RECORD.c.keys()[1:-1]])
    ends = [_EDGE.c[name] for name in _EDGE.c.keys()[:-1]]
    _fill(to.get_bind(), _EDGE, ends, ends)


def _fill(
    connection: sa.Connection, table: sa.TableClause, key: Sequence[Any], sealed: Sequence[sa.ColumnElement[Any]]
) -> None:
    which = sa.and_(*(column == sa.bindparam(f"of_{column.name}") for column in key))
    update = table.update().where(which).values(seal=sa.bindparam("sealed"))
    for rows in _pages(connection, key, sealed):
        size = len(key)
        named = [{f"of_{column.name}": value for column, value in zip(key, row, strict=False)} for row in rows]
        connection.execute(
            update, [where | {"sealed": _seal(row[size:])} for where, row in zip(named, rows, strict=True)]
        )


def _pages(
    connection: sa.Connection, key: Sequence[Any], sealed: Sequence[sa.ColumnElement[Any]]
) -> Iterator[Sequence[sa.Row[Any]]]:
    """Rows in the order of their keys: the key, then what is sealed."""
    query = sa.select(*key, *(column.label(f"sealed_{column.name}") for column in sealed))
    query = query.order_by(*key).limit(_AT_ONCE)
    rows = connection.execute(query).all()
    while rows:
        yield rows
        last = sa.tuple_(*map(sa.literal, rows[-1][: len(key)]))
        rows = connection.execute(query.where(sa.tuple_(*key) > last)).all()


def _seal(columns: Sequence[Any]) -> str:
    return digest_bytes("\0".join(map(str, columns)).encode())[:16]
