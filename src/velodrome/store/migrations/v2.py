"""Version 2: the newest records of a kind, whatever their names, are found without reading and sorting all of them."""

from alembic.operations import Operations

__all__ = ["upgrade"]


def upgrade(to: Operations) -> None:
    to.create_index("record_in_order", "record", ["kind", "position"])
