"""Conformance suites for the interfaces, for our own implementations and for those of others.

Owns one class of tests for each interface; an implementation subclasses it and gives a fixture that makes one.
Promises: what a suite passes, every other package can rely on. May import: everything but cli; pytest.
"""
