"""Watching a model in use: what moved in the data, how good it still is, and whether it is time to train again.

Owns: windows of newly arrived data, drift reports, quality of a version on rows that it has not seen, and `decide`.
Promises: the reference is never read again, only its stored sketches; a decision is a pure function of its evidence and says why.
May import: registry, models, data, evaluation, store, core.
"""
