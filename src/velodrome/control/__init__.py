"""The loop itself: from a recipe to an approved version, each step found if it was done before.

Owns the loading of recipes, the pipeline, the first recipe for a file (`init`), and the check of the whole workspace (`doctor`).
Promises: it computes nothing that could live lower; every step is a record or a pointer move, so a kill anywhere is repaired
by the same command.
May import: everything below; it is the only package that knows all of them.
"""
