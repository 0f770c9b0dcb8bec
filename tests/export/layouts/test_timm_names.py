"""Plain checkpoints of timm's ResNets: equal, refused, or the property that differs is listed; docs/timm.md is true."""

import re
from pathlib import Path

import pytest

from .timm_names import page, row, timm

ROOT = Path(__file__).resolve().parents[3]
ONE_BLOCK = {"layers": (1, 1, 1, 1), "num_classes": 5}


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("resnet10t", "equal"),
        ("ecaresnet26t", "equal"),
        ("seresnext50_32x4d", "equal"),
        ("resnetblur18", "option"),
        ("seresnextaa101d_32x8d", "option"),
        ("resnet50_gn", "refused"),
    ],
)
def test_six_names_with_one_block_a_stage(name: str, outcome: str) -> None:
    found = row(name, **ONE_BLOCK)
    assert found.outcome == outcome
    assert (found.detail == "") == (outcome == "equal")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_name_is_as_the_page_says() -> None:
    assert "".join(page()) == (ROOT / "docs/timm.md").read_text()


def test_the_page_has_no_silent_difference() -> None:
    lines = [line for line in (ROOT / "docs/timm.md").read_text().splitlines() if line.startswith("| `")]
    known = timm.list_models(module="resnet")
    assert len(lines) > 60
    assert {line.split("`")[1] for line in lines} <= set(known)
    assert all(re.search(r"\| (equal|option: `--assume anti-aliasing=(avg|blur)`|refused) \|$", line) for line in lines)
