"""Predictions for others: today a file in, a file out.

Owns batch prediction. Promises: the answers are those of the version that was named, and the file appears whole or not at all.
May import: core, store, data, features, models, registry; never training.
"""
