"""Values without I/O of the product's own: errors, ids, clock, digests, counter hash, units, configuration, logging, extras.

Owns what every other package needs and nothing that needs another package.
Promises: importing it costs milliseconds, opens no file and reads no environment.
May import: the standard library, msgspec, numpy, blake3, structlog.
"""
