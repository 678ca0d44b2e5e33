"""How good a model is, how sure that is, and whether it is good enough: metrics, intervals, cohorts, calibration, reports
and gates; and how columns of numbers and of text are sketched and compared.

Owns the numbers that judge a model and the rules that turn them into a verdict.
Promises: pure functions of arrays and a seed, the same on every call; no file, no clock, no store. What cannot be
judged is a named error or a stated reason, never a NaN.
May import: numpy, scipy, msgspec and `velodrome.core`.
"""
