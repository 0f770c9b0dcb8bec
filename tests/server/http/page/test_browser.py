"""The page in a browser, with a real server of the demo models: a dropped picture is labelled."""

from pathlib import Path

import pytest

from ....conftest import RunningServer
from .chromium import browser

Truth = dict[str, dict[str, str]]


def picture_of(truth: Truth, model: str) -> tuple[str, str]:
    """Return the name of a picture of a model, and the right answer."""
    name, entry = next((name, entry) for name, entry in truth.items() if entry["model"] == model)
    return name, entry.get("label") or entry["caption"]


@pytest.mark.timeout(90)
async def test_a_dropped_picture_is_labelled(
    demo_server: RunningServer, samples: Path, truth: Truth, tmp_path: Path
) -> None:
    name, label = picture_of(truth, "digits")
    async with browser(tmp_path / "profile") as tab:
        await tab.open(f"http://{demo_server.http}/")
        await tab.until("!document.querySelector('#picture').hidden")
        await tab.drop(samples / name)
        await tab.until("document.querySelectorAll('#labels li').length === 5")
        assert await tab.text("#labels li .label") == label
        assert (await tab.text("#said")).startswith(f"Answer: {label},")
        assert "Version 1: decoding" in await tab.text("#timing")
        assert tab.problems == []
        assert {address.partition("/page/")[0].rstrip("/") for address in tab.requested if "/page/" in address} == {
            f"http://{demo_server.http}"
        }
        assert all(address.startswith(f"http://{demo_server.http}/") for address in tab.requested)
