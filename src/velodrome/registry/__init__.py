"""What is known about how a model came to be: runs, their inputs and histories, and the versions made of them.

Owns runs and their outcomes, captured code, environment and provenance, metric series, tags, the search over runs, versions,
aliases, approvals, and the trace from a version back to its data.
Promises: everything that changes state is one commit with compare-and-set; numbers of versions have no gaps; a decision is
recorded with who made it, when and why; training never waits for tracking and never dies of it.
May import: core, store, evaluation, data, features, models.
"""
