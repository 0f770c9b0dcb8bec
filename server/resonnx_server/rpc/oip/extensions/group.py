"""What a group of rpcs of the tensor protocol has in common."""

from typing import Protocol


class Group(Protocol):
    """Methods with the names and signatures of rpcs."""

    @property
    def rpcs(self) -> tuple[str, ...]:
        """Their names."""

    @property
    def extensions(self) -> tuple[str, ...]:
        """Names of the protocol's extensions that they make, for ServerMetadata."""
