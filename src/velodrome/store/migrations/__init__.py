"""The steps from one version of the ledger's schema to the next.

Owns one module for each version, which says what it changed and is never edited once it was released, and the way up.
Promises: a step runs in the transaction of the ledger that calls, so a kill leaves the version before it whole; there is no
way down, which is what the backup before a migration is for.
May import: core, alembic, numpy, sqlalchemy.
"""
