"""Networks whose keys are a plain ResNet's and whose arithmetic is not: answers catch them and name the option."""

from pathlib import Path

import pytest

from .silent_share import CASES, page, row

PAGE = Path(__file__).resolve().parents[3] / "docs/silent.md"


@pytest.mark.parametrize("name", [pytest.param("no pool", marks=pytest.mark.slow), "epsilon"])
def test_the_value_is_named(name: str) -> None:
    assert row(name).named


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_network_is_as_the_page_says() -> None:
    assert "".join(page()) == PAGE.read_text()


def test_all_are_caught_and_eight_of_ten_named() -> None:
    rows = [line.split(" | ") for line in PAGE.read_text().splitlines() if line.endswith((" yes |", " no |"))]
    assert [each[0].removeprefix("| ") for each in rows] == list(CASES)
    assert {each[2] for each in rows} == {"yes"}
    named = sum(each[3] == "yes |" for each in rows)
    assert named >= 0.8 * len(rows)
