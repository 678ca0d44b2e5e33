"""The way up from any version of the schema to the newest, by Alembic's operations.

Versions are whole numbers that a database keeps where it likes, so Alembic's own table of versions and its environment are
not used. Imported only when there is something to migrate: Alembic takes a tenth of a second to import.
"""

from collections.abc import Callable

import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext

from velodrome.store.migrations import v1, v2, v3, v4

__all__ = ["STEPS", "upgrade"]

STEPS: list[Callable[[Operations], None]] = [v1.upgrade, v2.upgrade, v3.upgrade, v4.upgrade]
"""What makes each version, from 1, of the one before; version 0 has no tables."""


def upgrade(connection: sa.Connection, version: int) -> None:
    """Carry out what leads from `version` to the newest, in the present transaction; the version is the caller's to write."""
    operations = Operations(MigrationContext.configure(connection))
    for step in STEPS[version:]:
        step(operations)
