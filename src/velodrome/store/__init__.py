"""The only code that knows a database, a bucket or a folder, and the only code that writes.

Owns the ledger (records, edges, events, pointers, series blocks, facts), the blobs, trees of files, atomic writes of what the user
names, the scratch and cache areas, the spools, the locks, and `Workspace`, the frozen bundle that every verb takes first.
Promises: what a call has returned survives a kill; what it has not returned is there whole or not at all; bytes are
verified against their digest before anyone sees them.
May import: core, sqlalchemy, and late psycopg, alembic, obstore and cryptography.
"""
