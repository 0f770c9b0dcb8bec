"""One property of a network or its preprocessing that a checkpoint does not record, with the value that was taken."""

from dataclasses import dataclass

from resonnx_proto.v1 import manifest_pb2 as pb


@dataclass(frozen=True)
class Assumption:
    """A property that keys and shapes do not show.

    Attributes:
        name: "activation" and the like; with `--assume`, the name that it takes.
        value: The value that was taken.
        option: The command's option that changes it, e.g. "--assume activation=VALUE".
        alternatives: The other values that the option takes, where they can be listed.
        confirmed: The user stated the value, or recorded answers confirm it.
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

    def __str__(self) -> str:
        return describe(self.message())


def describe(assumption: pb.Assumption) -> str:
    """Return the value, the option that changes it, and the other values, in one line."""
    known = "given" if assumption.confirmed else "assumed"
    others = f" (or {', '.join(assumption.alternatives)})" if assumption.alternatives else ""
    return f"{known}: {assumption.name} {assumption.value}; {assumption.option}{others}"
