"""The rule by which a new version is promoted: `agreement>=0.99 and compute<=1.1x and n>=2000`."""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from resonnx_server.errors import InvalidInput

FIELD: Final = "promote_if"
# Longest rule, in characters.
_LONGEST: Final = 500
_MOST_ANSWERS: Final = 10_000_000
_MOST_TIMES: Final = 1000
_TERM: Final = re.compile(r"([a-z_0-9]+)\s*(>=|<=)\s*([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*(x|ms|)")


@dataclass(frozen=True)
class _Measure:
    """What a term may say: its operator, its units ("" is none), its largest bound, and its meaning for errors."""

    operator: str
    units: tuple[str, ...]
    most: int
    meaning: str


_MEASURES: Final = {
    "agreement": _Measure(">=", ("",), 1, "share of equal answers: same best class, same words"),
    "max_dp": _Measure("<=", ("",), 1, "largest difference of a probability"),
    "mean_dp": _Measure("<=", ("",), 1, "mean over answers of the largest difference of a probability"),
    "edit": _Measure("<=", ("",), _MOST_TIMES, "mean edit distance of captions, in words"),
    "compute": _Measure("<=", ("x",), _MOST_TIMES, "compute time at equal batch size, as a multiple"),
    "p99": _Measure("<=", ("x", "ms"), 1_000_000, "99th percentile of latency, as a multiple or in ms; canary only"),
    "errors": _Measure("<=", ("",), 1, "share of failed runs"),
    "n": _Measure(">=", ("",), _MOST_ANSWERS, "number of compared answers"),
}


@dataclass(frozen=True)
class Term:
    """A bound of one measure.

    Attributes:
        name: The measure.
        bound: Its least value ("agreement") or its largest (all others).
        unit: "x" for multiples of what the serving version needs, "ms", or "".
        text: As it was written, for messages.
    """

    name: str
    bound: Fraction
    unit: str
    text: str


@dataclass(frozen=True)
class Rule:
    """When a new version is promoted, and when it is rolled back.

    Attributes:
        answers: Compared answers (pictures) after which it is decided.
        terms: The other terms, by measure.
    """

    answers: int
    terms: dict[str, Term]

    def __str__(self) -> str:
        """Return the rule as it may be written."""
        return " and ".join([*(term.text for term in self.terms.values()), f"n>={self.answers}"])


def parse_rule(text: str) -> Rule:
    """Return the rule that a text says.

    Args:
        text: Terms, joined by "and"; one of them is `n>=N`.

    Raises:
        InvalidInput: It says none; the message says which term is wrong, and how it is written.
    """
    if len(text) > _LONGEST:
        raise InvalidInput(FIELD, f"has {len(text)} characters, more than {_LONGEST}")
    answers, terms = 0, dict[str, Term]()
    for part in re.split(r"\s+and\s+", text.strip()):
        term = _parse_term(part)
        if term.name in terms or (term.name == "n" and answers):
            raise InvalidInput(FIELD, f"has two terms for {term.name}; write one")
        if term.name == "n":
            answers = int(term.bound)
        else:
            terms[term.name] = term
    if not answers:
        raise InvalidInput(FIELD, "has no term n>=N: after how many compared answers it is decided, e.g. n>=2000")
    if not terms:
        raise InvalidInput(FIELD, f"demands nothing but a number of answers; add a term: {_known()}")
    return Rule(answers, terms)


def _parse_term(part: str) -> Term:
    found = _TERM.fullmatch(part.strip())
    if found is None:
        raise InvalidInput(FIELD, f"{part[:60]!r} is no term like agreement>=0.99 or compute<=1.1x, joined by 'and'")
    name, operator, number, unit = found.groups()
    if (measure := _MEASURES.get(name)) is None:
        raise InvalidInput(FIELD, f"{name[:30]!r} is not a measure: {_known()}")
    if operator != measure.operator:
        raise InvalidInput(FIELD, f"{name} is bounded with {measure.operator}, not {operator} ({measure.meaning})")
    if unit not in measure.units:
        units = " or ".join(f"{name}<=1.1{known}" if known else f"{name} without a unit" for known in measure.units)
        raise InvalidInput(FIELD, f"{part.strip()!r}: write {units} ({measure.meaning})")
    bound, most = Fraction(number), _MOST_TIMES if unit == "x" else measure.most
    if bound > most:
        raise InvalidInput(FIELD, f"{part.strip()!r}: {number} is more than {most} ({measure.meaning})")
    if unit and not bound:
        raise InvalidInput(FIELD, f"{part.strip()!r}: no time is 0 ({measure.meaning})")
    if name == "n" and (bound < 1 or bound.denominator != 1):
        raise InvalidInput(FIELD, f"n>={number}: is not an integer within 1..{_MOST_ANSWERS}")
    return Term(name, bound, unit, f"{name}{operator}{number}{unit}")


def _known() -> str:
    return "; ".join(f"{name} ({measure.meaning})" for name, measure in _MEASURES.items())
