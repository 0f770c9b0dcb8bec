"""Clips on the page in a browser: a file and frames are shown and labelled, with the keyboard and in small windows."""

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageSequence

from ....conftest import RunningServer, StartServer
from .chromium import Tab, browser

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

_READY = "!document.querySelector('#picture').hidden && document.querySelector('#plots svg')"
_DONE = "document.querySelector('#timing').textContent"
_MOVING = "document.querySelector('#moving')"
_PIXELS = "document.querySelector('#canvas').toDataURL()"


@pytest.fixture(scope="module")
def gestures(start_server: StartServer, video_repository: Path) -> Iterator[RunningServer]:
    with start_server(video_repository) as server:
        yield server


@pytest.fixture(scope="module")
def clip_of(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a clip of samples, and its label."""
    folder = tmp_path_factory.mktemp("clips") / "samples"
    command = [sys.executable, "-m", "resonnx_export", "demo", "--samples", str(folder), "--count", "4", "--seed", "7"]
    subprocess.run(command, check=True, timeout=120)
    truth = json.loads((folder / "clips/truth.json").read_text())
    name, entry = next(iter(truth.items()))
    return folder / "clips" / name, entry["label"] if isinstance(entry, dict) else entry


@pytest.fixture
async def tab(tmp_path: Path, gestures: RunningServer) -> AsyncIterator[Tab]:
    async with browser(tmp_path / "profile") as tab:
        await tab.open(f"http://{gestures.http}/")
        await tab.until(_READY)
        yield tab


def _frames(clip: Path, folder: Path) -> list[Path]:
    """Write the frames of a clip as 1.png, 2.png, …, which are in another order by their letters."""
    paths = []
    with Image.open(clip) as opened:
        for number, frame in enumerate(ImageSequence.Iterator(opened), 1):
            written = io.BytesIO()
            frame.convert("RGB").save(written, "PNG")
            paths.append(folder / f"{number}.png")
            paths[-1].write_bytes(written.getvalue())
    return paths


async def test_a_dropped_clip_plays_and_is_labelled(tab: Tab, clip_of: tuple[Path, str]) -> None:
    clip, label = clip_of
    assert "video_classifier" in await tab.text(".card.chosen .facts")
    assert await tab.text("#picture-title") == "Ask gestures, version 1, with a clip"
    await tab.drop(clip)
    await tab.until(_DONE)
    assert await tab.text("#labels li .label") == label
    assert (await tab.text("#said")).startswith(f"Answer: {label}, ")
    with Image.open(clip) as opened:
        assert f"{opened.n_frames} frames read." in await tab.text("#timing")
    await tab.until(f"!{_MOVING}.hidden && {_MOVING}.naturalWidth > 0")
    # A user can stop what moves.
    await tab.evaluate("document.querySelector('#play').click()")
    assert await tab.evaluate(f"{_MOVING}.hidden && !document.querySelector('#canvas').hidden")
    assert tab.problems == []


async def test_several_pictures_are_the_frames_of_a_clip(tab: Tab, clip_of: tuple[Path, str], tmp_path: Path) -> None:
    clip, label = clip_of
    frames = _frames(clip, tmp_path)
    await tab.drop(*reversed(frames))
    await tab.until(_DONE)
    assert await tab.text("#labels li .label") == label
    assert f"{len(frames)} frames read." in await tab.text("#timing")
    assert (await tab.text("#seen-caption")).startswith(f"{len(frames)} frames")
    first = await tab.evaluate(_PIXELS)
    await tab.until(f"{_PIXELS} !== {json.dumps(first)}")
    assert tab.problems == []


async def test_what_is_no_clip_is_said(tab: Tab, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "still.png")
    await tab.drop(tmp_path / "still.png")
    await tab.until("document.querySelector('#problem').textContent")
    problem = await tab.text("#problem")
    assert problem.startswith("clip: ")
    assert problem.endswith("(BAD_CLIP)")


async def test_a_clip_is_chosen_and_stopped_with_the_keyboard(tab: Tab, clip_of: tuple[Path, str]) -> None:
    clip, label = clip_of
    await tab.choose(clip)
    await tab.tab_to(".skip")
    assert await tab.text(".skip") == "Skip to the clip"
    await tab.press("Enter")
    await tab.tab_to("#file")
    await tab.press("Enter")
    await tab.until(_DONE)
    assert await tab.text("#labels li .label") == label
    await tab.tab_to("#play")
    await tab.press("Space")
    assert await tab.evaluate(f"{_MOVING}.hidden")
    assert tab.problems == []


async def test_nothing_moves_for_those_who_want_no_motion(tab: Tab, clip_of: tuple[Path, str], tmp_path: Path) -> None:
    await tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    await tab.drop(*_frames(clip_of[0], tmp_path))
    await tab.until(_DONE)
    before = await tab.evaluate(_PIXELS)
    # Six frames of the clip, if it played.
    await asyncio.sleep(0.5)
    assert await tab.evaluate(_PIXELS) == before
    await tab.evaluate("document.querySelector('#play').click()")
    await tab.until(f"{_PIXELS} !== {json.dumps(before)}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_clip_in_a_narrow_window_has_no_barriers(
    tab: Tab, gestures: RunningServer, clip_of: tuple[Path, str], node_modules: Path, scheme: str
) -> None:
    await tab.look(width=360, height=740, scheme=scheme)
    # For axe only: the other tests run under the policy.
    await tab.call("Page.setBypassCSP", enabled=True)
    await tab.open(f"http://{gestures.http}/")
    await tab.until(_READY)
    await tab.drop(clip_of[0])
    await tab.until(_DONE)
    assert await tab.evaluate("document.documentElement.scrollWidth") <= 360
    await tab.evaluate((node_modules / "node_modules/axe-core/axe.min.js").read_text() + "; true")
    rules = "{runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']}"
    violations = "it.violations.map((each) => [each.id, each.nodes.map((node) => node.html)])"
    found, passed = await tab.evaluate(f"axe.run({rules}).then((it) => [{violations}, it.passes.length])")
    assert found == []
    assert passed > 20
