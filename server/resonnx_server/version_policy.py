"""Which versions of a model are served: the latest ones, all, or those that are named."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Self

_LATEST: Final = re.compile(r"latest\s*:\s*([1-9][0-9]{0,8})")
_SPECIFIC: Final = re.compile(r"specific\s*:\s*\[?\s*([0-9]+(?:\s*,\s*[0-9]+)*)\s*\]?")
_FORMS: Final = '"latest: N" (N of 1 or more), "all" or "specific: [V, …]"'
# Versions that a policy may name.
_MOST: Final = 64
_LARGEST: Final = 10**18
_LABEL: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class VersionPolicy:
    """A policy.

    Attributes:
        latest: Serve so many of the highest versions; None for no such limit.
        specific: Serve these only; None for any.
    """

    latest: int | None = 1
    specific: frozenset[int] | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the policy of a text that `canonical` has made."""
        if text == "all":
            return cls(None)
        kind, _, rest = text.partition(": ")
        return cls(int(rest)) if kind == "latest" else cls(None, frozenset(map(int, rest.strip("[]").split(", "))))

    def choose(self, versions: Collection[int]) -> set[int]:
        """Return those of `versions` that are served."""
        if self.specific is not None:
            return {*versions} & self.specific
        return {*sorted(versions, reverse=True)[: self.latest]}


def canonical(value: object) -> str:
    """Return a policy's text in one form: "latest: 2", "all" or "specific: [1, 3]".

    Args:
        value: The same with other spaces, or a table: {latest = 2}, {all = true} or {specific = [1, 3]}.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(value, Mapping) and len(value) == 1:
        (kind, given), *_ = value.items()
        value = "all" if kind == "all" and given is True else f"{kind}: {given}"
    text = value.strip() if isinstance(value, str) else ""
    if text == "all":
        return text
    if found := _LATEST.fullmatch(text):
        return f"latest: {int(found[1])}"
    if found := _SPECIFIC.fullmatch(text):
        versions = sorted({int(version) for version in found[1].split(",")})
        if versions[0] > 0 and versions[-1] < _LARGEST and len(versions) <= _MOST:
            return f"specific: {versions}"
    raise ValueError(f"{str(value)[:64]!r} is none of {_FORMS}")


def checked_labels(labels: dict[str, int]) -> dict[str, int]:
    """Return labels of versions. Raises ValueError unless each is a name that is not a number."""
    for label in labels:
        if _LABEL.fullmatch(label) is None:
            raise ValueError(f"{label[:64]!r} is not a label: a letter, then letters, digits, _ . -, at most 64")
    return labels
