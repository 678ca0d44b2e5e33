"""How a recipe's learner becomes weights: the loop, schedules, checkpoints, learners, and `track` for a loop of one's own.

Owns the training loop, its state and its checkpoints, the learners (PyTorch modules, scikit-learn estimators) and `track`.
Promises: a run that was killed and run again ends with the weights of a run that was not; no step applies a gradient that
is not finite; a checkpoint is restored only if its bytes are what its digest says.
May import: core, store, evaluation, data, features, models, registry; torch only in the modules whose name begins with torch.
"""
