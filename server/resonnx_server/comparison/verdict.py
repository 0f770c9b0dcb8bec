"""Judges a new version by its rule and what is known of it."""

from collections.abc import Iterator
from enum import Enum
from fractions import Fraction
from typing import NamedTuple

from resonnx_server.comparison.evidence import LEAST_FOR_P99, LEAST_PAIRS, Evidence
from resonnx_server.comparison.rule import Rule, Term


class Verdict(Enum):
    """What is to be done with a new version."""

    UNDECIDED = "undecided"
    PROMOTE = "promote"
    ROLL_BACK = "roll back"


class Judgement(NamedTuple):
    """A verdict, and why."""

    verdict: Verdict
    reason: str


def judge(rule: Rule, evidence: Evidence) -> Judgement:
    """Return what a rule says.

    Promote: `n` is reached and all other terms hold. Roll back: `n` is reached and a term fails, or, before that, it
    can no longer hold when `n` is reached, or a run of the new version has failed and no term permits that.
    """
    # The number of answers at which it is decided; those after it are counted as well.
    decided_at = max(rule.answers, evidence.n)
    if "errors" not in rule.terms and evidence.errors:
        return Judgement(Verdict.ROLL_BACK, f"the new version failed on {evidence.errors} of {evidence.runs} pictures")
    for reason in _beyond_hope(rule, evidence, decided_at):
        return Judgement(Verdict.ROLL_BACK, reason)
    if evidence.n < rule.answers:
        return Judgement(Verdict.UNDECIDED, f"{evidence.n} of {rule.answers} answers are compared")
    for reason in _too_slow(rule, evidence):
        return Judgement(Verdict.ROLL_BACK, reason)
    for reason in _missing(rule, evidence):
        return Judgement(Verdict.UNDECIDED, reason)
    return Judgement(Verdict.PROMOTE, f"{rule} holds after {evidence.n} compared answers")


def _beyond_hope(rule: Rule, evidence: Evidence, decided_at: int) -> Iterator[str]:
    """Yield why terms fail already, even if all answers up to the decision were equal."""
    differing = evidence.n - evidence.agreeing
    for term in rule.terms.values():
        most = term.bound * decided_at
        if term.name == "agreement" and differing > decided_at - most:
            allowed = f"{term.text} permits {int(decided_at - most)} of {decided_at}"
            yield f"{differing} of {evidence.n} answers differ; {allowed}"
        elif term.name == "max_dp" and evidence.dp_max > term.bound:
            yield f"a probability differs by {evidence.dp_max:.4g}; {term.text} was demanded"
        elif term.name == "mean_dp" and evidence.dp_sum > most:
            yield _mean("probabilities differ by", evidence.dp_sum, evidence.n, term, decided_at)
        elif term.name == "edit" and evidence.edits > most:
            yield _mean("captions differ by words:", evidence.edits, evidence.n, term, decided_at)
        elif term.name == "errors" and evidence.errors > term.bound * (decided_at + evidence.errors):
            yield f"the new version failed on {evidence.errors} of {evidence.runs} pictures; {term.text} was demanded"


def _too_slow(rule: Rule, evidence: Evidence) -> Iterator[str]:
    """Yield which times fail."""
    compute, p99_s = rule.terms.get("compute"), rule.terms.get("p99")
    if compute is not None and (times := evidence.compute) is not None and times > compute.bound:
        yield f"its compute time is {times:.3g}x; {compute.text} was demanded"
    if p99_s is not None and (both := evidence.p99_s) is not None:
        new_s, base_s = both
        found = new_s / base_s if p99_s.unit == "x" else new_s * 1000
        if found > p99_s.bound:
            yield f"the 99th percentile of its latency is {found:.3g}{p99_s.unit}; {p99_s.text} was demanded"


def _missing(rule: Rule, evidence: Evidence) -> Iterator[str]:
    """Yield what is not known yet."""
    if "compute" in rule.terms and evidence.compute is None:
        yield f"{evidence.pairs} of {LEAST_PAIRS} pairs of runs for compute are done, in idle time of the device"
    if "p99" in rule.terms and evidence.p99_s is None:
        counts = f"{evidence.served.count} and {evidence.served_by_base.count}"
        yield f"for p99, both versions need {LEAST_FOR_P99} answered calls; there are {counts}"


def _mean(what: str, total: float, n: int, term: Term, decided_at: int) -> str:
    least = Fraction(total) / decided_at
    return f"{what} {total / n:.4g} on average, at least {float(least):.4g} in the end; {term.text} was demanded"
