"""Verdicts: promoted only when the rule holds, rolled back as soon as it cannot hold any more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.comparison.differences import Difference
from resonnx_server.comparison.evidence import LEAST_FOR_P99, LEAST_PAIRS, Evidence
from resonnx_server.comparison.rule import parse_rule
from resonnx_server.comparison.verdict import Verdict, judge

_SAME = Difference(agrees=True)
_OTHER = Difference(agrees=False, dp=0.25)


def evidence(*differences: Difference, ratio: float | None = None) -> Evidence:
    """Return evidence of these answers, and of pairs of runs with this ratio of compute times."""
    found = Evidence()
    for difference in differences:
        found.add(difference)
    for _ in range(0 if ratio is None else LEAST_PAIRS):
        found.add_pair(ratio, 1.0)
    return found


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 40), st.integers(0, 20))
def test_agreement_is_decided_at_n_and_rolled_back_exactly_when_hope_is_gone(
    answers: list[bool], n: int, percent: int
) -> None:
    rule = parse_rule(f"agreement>={percent / 20} and n>={n}")
    found = Evidence()
    for count, agrees in enumerate(answers, 1):
        found.add(_SAME if agrees else _OTHER)
        verdict = judge(rule, found).verdict
        differing = answers[:count].count(False)
        # The best that can come: all answers up to n agree.
        final = max(count, n)
        can_hold = (final - differing) * 20 >= percent * final
        expected = Verdict.UNDECIDED if can_hold else Verdict.ROLL_BACK
        assert verdict is (Verdict.PROMOTE if can_hold and count >= n else expected)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 40), st.sampled_from((0.0, 0.1, 0.5, 1.0)))
def test_differences_of_probabilities(dps: list[float], n: int, bound: float) -> None:
    found = evidence(*(Difference(True, dp) for dp in dps))
    by_max = judge(parse_rule(f"max_dp<={bound} and n>={n}"), found).verdict
    assert (by_max is Verdict.ROLL_BACK) == (max(dps) > bound)
    by_mean = judge(parse_rule(f"mean_dp<={bound} and n>={n}"), found).verdict
    if by_mean is Verdict.PROMOTE:
        assert len(dps) >= n
        assert sum(dps) <= bound * len(dps) + 1e-9
    if by_mean is Verdict.ROLL_BACK:
        assert sum(dps) > bound * max(n, len(dps)) - 1e-9


def test_captions_are_judged_by_their_edit_distance() -> None:
    rule = parse_rule("edit<=0.5 and n>=4")
    assert judge(rule, evidence(_SAME, Difference(False, edits=2))).verdict is Verdict.UNDECIDED
    assert judge(rule, evidence(Difference(False, edits=3))).verdict is Verdict.ROLL_BACK
    assert judge(rule, evidence(Difference(False, edits=2), _SAME, _SAME, _SAME)).verdict is Verdict.PROMOTE


@pytest.mark.parametrize(("ratio", "verdict"), [(1.0, Verdict.PROMOTE), (1.2, Verdict.ROLL_BACK)])
def test_compute_time_decides_when_n_is_reached(ratio: float, verdict: Verdict) -> None:
    rule = parse_rule("agreement>=0.9 and compute<=1.1x and n>=3")
    assert judge(rule, evidence(_SAME, _SAME, ratio=ratio)).verdict is Verdict.UNDECIDED
    assert judge(rule, evidence(_SAME, _SAME, _SAME, ratio=ratio)).verdict is verdict
    waiting = judge(rule, evidence(_SAME, _SAME, _SAME))
    assert waiting.verdict is Verdict.UNDECIDED
    assert "pairs of runs" in waiting.reason


@pytest.mark.parametrize(
    ("term", "new_ms", "verdict"),
    [
        ("p99<=1.2x", 11, Verdict.PROMOTE),
        ("p99<=1.2x", 14, Verdict.ROLL_BACK),
        ("p99<=12ms", 11, Verdict.PROMOTE),
        ("p99<=12ms", 14, Verdict.ROLL_BACK),
    ],
)
def test_latencies_decide_when_enough_calls_were_answered(term: str, new_ms: int, verdict: Verdict) -> None:
    rule, found = parse_rule(f"{term} and n>=1"), evidence(_SAME)
    for _ in range(LEAST_FOR_P99):
        assert judge(rule, found).verdict is Verdict.UNDECIDED
        found.served.add(new_ms * 1_000_000)
        found.served_by_base.add(10_000_000)
    assert judge(rule, found).verdict is verdict


def test_a_failed_run_rolls_back_unless_a_term_permits_it() -> None:
    found = evidence(*[_SAME] * 50)
    found.errors = 1
    judgement = judge(parse_rule("agreement>=0.9 and n>=100"), found)
    assert judgement.verdict is Verdict.ROLL_BACK
    assert "failed on 1 of 51" in judgement.reason
    assert judge(parse_rule("errors<=0.02 and n>=100"), found).verdict is Verdict.UNDECIDED
    assert judge(parse_rule("errors<=0.02 and n>=50"), found).verdict is Verdict.PROMOTE
    assert judge(parse_rule("errors<=0.005 and n>=100"), found).verdict is Verdict.ROLL_BACK


def test_reasons_name_the_term_and_the_figures() -> None:
    rule = parse_rule("agreement>=0.9 and n>=20")
    judgement = judge(rule, evidence(_OTHER, _OTHER, _OTHER))
    assert judgement.reason == "3 of 3 answers differ; agreement>=0.9 permits 2 of 20"
