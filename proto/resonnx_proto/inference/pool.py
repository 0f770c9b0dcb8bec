"""Owns the private descriptor pool of the `inference` package.

tritonclient registers `inference.*` in protobuf's default pool, and a second registration there raises TypeError.
In a pool of our own both live in one process. Generated modules import this one in place of
`google.protobuf.descriptor_pool`.
"""

from google.protobuf.descriptor_pool import DescriptorPool

_POOL = DescriptorPool()


def Default() -> DescriptorPool:  # noqa: N802 - the generated code calls this name
    """Return the pool that holds the `inference` messages and services."""
    return _POOL
