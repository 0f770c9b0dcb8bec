"""The report of a rollback: private, without anything that a browser would run or fetch."""

import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from resonnx_server.comparison.comparison import Mode, Plan
from resonnx_server.comparison.differences import Difference
from resonnx_server.comparison.evidence import Evidence
from resonnx_server.comparison.kept import Disagreement
from resonnx_server.comparison.report import Reports

_PIXELS = np.full((4, 4, 3), 9, np.uint8)


def ended(*found: Disagreement, names: list[str]) -> Any:
    """Return what a report shows of a comparison."""
    kept = SimpleNamespace(found=[*found])
    told = {"name": "m", "base_version": 1, "new_version": 2, "reason": "<b>different</b>", "report": ""}
    return SimpleNamespace(**told, plan=Plan(Mode.SHADOW, 0.1), evidence=Evidence(), kept=kept, names=names)


def test_a_page_has_pictures_and_both_answers_escaped(tmp_path: Path) -> None:
    names = ["<script>alert(1)</script>", "a & b", 'c" onload="x']
    base, new = np.float32([0.7, 0.2, 0.1]), np.float32([0.1, 0.7, 0.2])
    comparison = ended(Disagreement(_PIXELS, base, new, Difference(False, 0.6)), names=names)
    Reports(tmp_path).write(comparison)
    text = Path(comparison.report).read_text()
    assert re.findall(r"<(script|b)\b|onload=\"|https?:", text) == []
    assert text.count("data:image/png;base64,") == 1
    first, second = text.split("&lt;script&gt;alert(1)&lt;/script&gt; 0.7000")
    assert "a &amp; b 0.7000" in second
    assert "default-src 'none'" in first
    assert os.stat(comparison.report).st_mode & 0o777 == 0o600


def test_captions_are_shown_as_words(tmp_path: Path) -> None:
    comparison = ended(Disagreement(_PIXELS, (0, 1), (), Difference(False, edits=2)), names=["a", "dog"])
    Reports(tmp_path).write(comparison)
    text = Path(comparison.report).read_text()
    assert "<td>a dog<td>(no words)" in text


def test_what_is_there_is_not_overwritten_or_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resonnx_server.comparison.report.time.strftime", lambda *_: "now")
    (tmp_path / "other").write_text("kept")
    (tmp_path / "m-2-now.html").symlink_to(tmp_path / "other")
    comparison = ended(names=["a"])
    Reports(tmp_path).write(comparison)
    assert (comparison.report, (tmp_path / "other").read_text()) == ("", "kept")
