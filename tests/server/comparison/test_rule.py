"""The rule of promotion: what it says, and what it does not accept."""

from contextlib import suppress
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.comparison.rule import parse_rule
from resonnx_server.errors import InvalidInput

_SHARES = st.decimals(0, 1, places=3).map(str)


def _p99(bound: tuple[object, str]) -> str:
    return "p99<={}{}".format(*bound)


_TERMS = {
    "agreement": _SHARES.map("agreement>={}".format),
    "max_dp": _SHARES.map("max_dp<={}".format),
    "mean_dp": _SHARES.map("mean_dp <= {}".format),
    "edit": st.decimals(0, 30, places=2).map("edit<={}".format),
    "compute": st.decimals("0.5", 3, places=2).map("compute<={}x".format),
    "p99": st.tuples(st.decimals(1, 100, places=1), st.sampled_from(("x", "ms"))).map(_p99),
    "errors": _SHARES.map("errors<={}".format),
}


def test_the_example_of_the_documentation() -> None:
    rule = parse_rule("agreement>=0.99 and compute<=1.1x and n>=2000")
    assert rule.answers == 2000
    bounds = {name: (term.bound, term.unit) for name, term in rule.terms.items()}
    assert bounds == {"agreement": (Fraction(99, 100), ""), "compute": (Fraction(11, 10), "x")}


@given(st.sets(st.sampled_from(sorted(_TERMS)), min_size=1), st.integers(1, 10_000_000), st.data())
def test_a_rule_is_read_as_it_is_printed(names: set[str], answers: int, data: st.DataObject) -> None:
    terms = [data.draw(_TERMS[name]) for name in sorted(names)]
    terms.insert(data.draw(st.integers(0, len(terms))), f"n>={answers}")
    rule = parse_rule("  and ".join(terms))
    assert (rule.answers, set(rule.terms)) == (answers, names)
    assert parse_rule(str(rule)) == rule


@given(st.text(alphabet="agreementpxdn_ <>=.0129", max_size=40))
def test_any_other_text_is_refused_by_name(text: str) -> None:
    with suppress(InvalidInput):
        rule = parse_rule(text)
        assert rule.answers > 0
        assert rule.terms


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("agreement>=0.99", "no term n>=N"),
        ("n>=2000", "add a term"),
        ("agreement<=0.99 and n>=10", "agreement is bounded with >="),
        ("agreement>=99 and n>=10", "99 is more than 1"),
        ("compute<=1.1 and n>=10", "compute<=1.1x"),
        ("p99<=1.1 and n>=10", "p99<=1.1x or p99<=1.1ms"),
        ("compute<=0x and n>=10", "no time is 0"),
        ("p99<=0.0ms and n>=10", "no time is 0"),
        ("agreement>=0.9 and agreement>=0.8 and n>=10", "two terms for agreement"),
        ("agreement>=0.9 and n>=10 and n>=20", "two terms for n"),
        ("agreement>=0.9 and n>=1.5", "is not an integer"),
        ("agreement>=0.9 and n>=0", "is not an integer"),
        ("agreement>=0.9 or n>=10", "joined by 'and'"),
        ("agrement>=0.9 and n>=10", "'agrement' is not a measure"),
        ("agreement>=0.9 and n>=10" + " " * 500, "more than 500"),
    ],
)
def test_errors_say_how_it_is_written(text: str, told: str) -> None:
    with pytest.raises(InvalidInput, match="promote_if") as caught:
        parse_rule(text)
    assert told in caught.value.message
