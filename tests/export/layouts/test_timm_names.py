"""timm's ResNets, from timm's code and as plain checkpoints: docs/timm.md is true, and has no silent difference."""

import re
from pathlib import Path

import pytest

from .timm_names import page, row, timm

ROOT = Path(__file__).resolve().parents[3]
ONE_BLOCK = {"layers": (1, 1, 1, 1), "channels": (32, 64, 128, 256), "num_classes": 5}


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("resnet10t", "equal"),
        ("resnet50_gn", "refused"),
        ("resnetaa34d", "option"),
        *(
            pytest.param(name, outcome, marks=pytest.mark.slow)
            for name, outcome in (
                ("ecaresnext26t_32x4d", "equal"),
                ("resnetblur18", "option"),
                ("senet154", "equal"),
                ("seresnet18", "equal"),
                ("seresnextaa101d_32x8d", "option"),
            )
        ),
    ],
)
def test_names_with_one_block_a_stage(name: str, outcome: str) -> None:
    found = row(name, size=32, **ONE_BLOCK)
    assert (found.module, found.outcome) == ("equal", outcome)
    assert (found.detail == "") == (outcome == "equal")


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_name_is_as_the_page_says() -> None:
    assert "".join(page()) == (ROOT / "docs/timm.md").read_text()


def test_the_page_has_no_silent_difference() -> None:
    lines = [line for line in (ROOT / "docs/timm.md").read_text().splitlines() if line.startswith("| `")]
    known = timm.list_models(module="resnet")
    assert len(lines) > 70
    assert {line.split("`")[1] for line in lines} <= set(known)
    plain = r"(equal|option: `--assume anti-aliasing=(avg|blur)`|refused)"
    assert all(re.search(rf"M \| equal \| {plain} \|$", line) for line in lines)
