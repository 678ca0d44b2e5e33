"""Pages about a run, a model and a recipe's year: everything that is known of it, in one HTML file that needs nothing else.

Owns: the facts of each page (frozen values, which `--json` prints as they are), the geometry of its charts, and the templates.
Promises: a page asks nothing of the network and runs no script; what comes from data is escaped; it reads and never writes.
May import: workspace, control, recipe, monitoring, registry, data, evaluation, store, core; Jinja is imported in `render` alone.
"""
