"""From files to rows that can be trusted, split and trained on.

Owns datasets, their sources and contracts, fragments and snapshots, profiles and sketches, splits, fitted transforms, labels,
the training layout and the order of its rows.
Promises: the same bytes under the same contract are the same snapshot, on every machine; no row vanishes (it is accepted, or
in quarantine with its reason, from where another contract can release it); a file that was read is not read again; splits and
transforms are pure functions.
May import: numpy, polars, msgspec, `velodrome.core`, `velodrome.store` and `velodrome.evaluation`; torch in `torch.py` alone.
"""
