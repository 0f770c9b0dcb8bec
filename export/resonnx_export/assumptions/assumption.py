"""One property of a network or its preprocessing that a checkpoint does not record, with the value that was taken."""

from dataclasses import dataclass
from typing import Final

from resonnx_proto.v1 import manifest_pb2 as pb

# The option of a property that no option of the command changes.
OWN_MODULE: Final = "resonnx-export module TARGET"


@dataclass(frozen=True)
class Assumption:
    """A property that keys and shapes do not show.

    Attributes:
        name: e.g. "stride".
        value: The value that was taken.
        option: The command's option that changes it, e.g. "--stride-in-1x1"; OWN_MODULE if none does.
        alternatives: The other values that the option takes, where they can be listed.
        confirmed: The user stated the value, or a file does.
    """

    name: str
    value: str
    option: str
    alternatives: tuple[str, ...] = ()
    confirmed: bool = False

    def message(self) -> pb.Assumption:
        """Return the manifest's entry."""
        return pb.Assumption(
            name=self.name,
            value=self.value,
            option=self.option,
            alternatives=self.alternatives,
            confirmed=self.confirmed,
        )

    @classmethod
    def of(cls, message: pb.Assumption) -> "Assumption":
        """Return a manifest's entry."""
        return cls(message.name, message.value, message.option, tuple(message.alternatives), message.confirmed)

    def __str__(self) -> str:
        return describe(self.message())


def describe(assumption: pb.Assumption, confirmed: str = "given") -> str:
    """Return the value, the option that changes it, the other values, and why answers do not confirm it, in one line.

    `confirmed` is the word for values that are.
    """
    known = confirmed if assumption.confirmed else "assumed"
    others = f" (or {', '.join(assumption.alternatives)})" if assumption.alternatives else ""
    line = f"{known}: {assumption.name} {assumption.value}; {assumption.option}{others}"
    return f"{line}; {assumption.unconfirmed}" if assumption.unconfirmed else line
