"""What a group of rpcs of the tensor protocol has in common."""

from typing import Protocol


class Group(Protocol):
    """Methods with the names and signatures of rpcs.

    Attributes:
        rpcs: Their names.
        extensions: Names of the protocol's extensions that they make, for ServerMetadata.
    """

    @property
    def rpcs(self) -> tuple[str, ...]: ...

    @property
    def extensions(self) -> tuple[str, ...]: ...
