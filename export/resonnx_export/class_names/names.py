"""The names of classes in their order, and the checks that every form of file shares."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from resonnx_export.errors import BadInput
from resonnx_export.wording import is_text

FORMS: Final = (
    'one name a line, a JSON list of names, or a JSON object: {"0": "name"}, {"name": 0}, {"0": ["id", "name"]}, or a '
    "config.json with id2label or label_names"
)
# As many as a message lists.
_LISTED: Final = 3


@dataclass(frozen=True)
class ClassNames:
    """Names in the order of the classes; two classes may share a name.

    Attributes:
        names: One of each class, without surrounding space, none empty.
        form: How the file gives them, e.g. 'a JSON object {"name": number}'; "" for one name a line.
    """

    names: tuple[str, ...]
    form: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the user: the form, where it is not one name a line, and names that classes share."""
        form = (f"labels: {len(self.names)} names, read as {self.form}",) if self.form else ()
        return form + self.shared

    @property
    def shared(self) -> tuple[str, ...]:
        """A line for the user with names that classes share, if there are any."""
        shared = [(name, count) for name, count in Counter(self.names).items() if count > 1]
        if not shared:
            return ()
        listed = ", ".join(f"{name!r} ({count} classes)" for name, count in shared[:_LISTED])
        more = f", and {len(shared) - _LISTED} more" if len(shared) > _LISTED else ""
        return (f"labels: classes share a name: {listed}{more}",)


def in_order(names: Iterable[Any], form: str = "") -> ClassNames:
    """Check a list of names. Raises BadInput if an entry is no text, or empty."""
    checked = []
    for number, name in enumerate(names):
        if not isinstance(name, str):
            shown = f"the number {name}" if isinstance(name, int | float) else f"a {type(name).__name__}"
            raise BadInput(f"does not hold a list of names: entry {number} is {shown}")
        if not name.strip():
            raise BadInput(f"does not name every class: name {number} is empty")
        if not is_text(name):
            raise BadInput(f"does not name every class: name {number} is {name[:40]!a}, no valid text")
        checked.append(name.strip())
    if not checked:
        raise BadInput("holds no names")
    return ClassNames(tuple(checked), form)


def by_number(pairs: Iterable[tuple[int, Any]], form: str) -> ClassNames:
    """Put names in the order of their numbers. Raises BadInput if the numbers are not 0 to N-1, each once."""
    pairs = list(pairs)
    named = dict(pairs)
    last = len(pairs) - 1
    if len(named) == len(pairs) and set(named) == set(range(1, len(pairs) + 1)):
        raise BadInput(
            f"is {form}, and its numbers are 1 to {len(pairs)}; they must be 0 to {last}, each once: add class 0 if it "
            "is 'background' or the like, otherwise leave the numbers out; a JSON list keeps numbers that are part of "
            "the names"
        )
    if set(named) != set(range(len(pairs))):
        counts = Counter(number for number, _ in pairs)
        wrong = next((number for number in range(len(pairs)) if counts[number] != 1), 0)
        found = "missing" if counts[wrong] == 0 else f"there {counts[wrong]} times"
        raise BadInput(f"is {form}; the numbers must be 0 to {last}, each once, and {wrong} is {found}")
    return in_order((named[number] for number in range(len(named))), form)
