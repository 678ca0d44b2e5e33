"""Older programs: velodrome as it was when its ledger had an earlier schema."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext

from velodrome.store import schema, sql
from velodrome.store.migrations.way import STEPS
from velodrome.store.rows import edge_row, read_stored, record_row

__all__ = ["program_of"]

_WITH_SEALS = 4


@contextmanager
def program_of(version: int) -> Iterator[None]:
    """Meanwhile velodrome is as it was when its schema had that version: ledgers are made so, by the steps up to it."""
    with pytest.MonkeyPatch.context() as patch:

        def create_all(connection: sa.Connection, **_: object) -> None:
            operations = Operations(MigrationContext.configure(connection))
            for step in STEPS[:version]:
                step(operations)

        if version < _WITH_SEALS:
            _without_seals(patch)
        patch.setattr(schema, "VERSION", version)
        patch.setattr(schema.metadata, "create_all", create_all)
        yield


def _without_seals(patch: pytest.MonkeyPatch) -> None:
    """Records and edges are written and read without the column that came with version 4."""
    for table in (schema.record, schema.edge):
        columns = [
            sa.Column(each.name, each.type, primary_key=each.primary_key, autoincrement=False)
            for each in table.c
            if each.name != "seal"
        ]
        patch.setattr(schema, table.name, sa.Table(table.name, sa.MetaData(), *columns))
    patch.setattr(sql, "record_row", lambda *given: _without_seal(record_row(*given)))
    patch.setattr(sql, "edge_row", lambda *given: _without_seal(edge_row(*given)))
    patch.setattr(sql, "read_sealed", lambda row: read_stored((*row, "")))


def _without_seal(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "seal"}
