"""The page in a browser, as people use it: captions, the keyboard, windows of all sizes and colours, hostile names."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from PIL import Image

from ....conftest import RunningServer, StartServer
from . import hostile
from .chromium import Tab, browser
from .test_browser import picture_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

Truth = dict[str, dict[str, str]]
_READY = "!document.querySelector('#picture').hidden && document.querySelector('#plots svg')"
# Notes what is shown whenever words are added: how many words, and whether the answer is complete.
OBSERVED = """
window.steps = [];
new MutationObserver(() => steps.push([
  document.querySelector('#words').children.length, document.querySelector('#timing').textContent !== '',
])).observe(document.querySelector('#words'), {childList: true});
"""
_PIXELS = "(() => { const c = document.querySelector('#canvas'); return c.toDataURL(); })()"


@pytest.fixture
async def tab(tmp_path: Path) -> AsyncIterator[Tab]:
    async with browser(tmp_path / "profile") as tab:
        yield tab


def _card(name: str) -> str:
    return f"[...document.querySelectorAll('.card button')].find((each) => each.textContent === {json.dumps(name)})"


async def test_a_caption_comes_word_by_word_with_attention(
    tab: Tab, demo_server: RunningServer, samples: Path, truth: Truth
) -> None:
    name, caption = picture_of(truth, "scenes")
    await tab.open(f"http://{demo_server.http}/")
    await tab.until(_READY)
    await tab.evaluate(f"{_card('scenes 1')}.click()")
    await tab.until("document.querySelector('#picture-title').textContent.startsWith('Ask scenes')")
    await tab.evaluate(OBSERVED)
    await tab.drop(samples / name)
    await tab.until("document.querySelector('#timing').textContent")
    assert await tab.text("#said") == f"Caption: {caption}"
    words = await tab.evaluate("[...document.querySelectorAll('#words button')].map((each) => each.textContent)")
    assert words == caption.split()
    steps = await tab.evaluate("steps")
    assert any(count for count, complete in steps if not complete), "words came before the whole answer"
    maps = set()
    for number in range(2):
        await tab.evaluate(f"document.querySelectorAll('#words button')[{number}].focus()")
        assert await tab.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
        maps.add(await tab.evaluate(_PIXELS))
    await tab.evaluate("document.querySelector('#overlay').click()")
    maps.add(await tab.evaluate(_PIXELS))
    assert len(maps) == 3, "each word has a map of its own, and the picture none"
    assert tab.problems == []


async def test_each_label_has_a_heatmap(tab: Tab, demo_server: RunningServer, samples: Path, truth: Truth) -> None:
    name, label = picture_of(truth, "digits")
    await tab.open(f"http://{demo_server.http}/")
    await tab.until(_READY)
    await tab.drop(samples / name)
    await tab.until("document.querySelectorAll('#labels button').length === 5")
    described = "document.querySelector('#canvas').getAttribute('aria-label')"
    assert (await tab.evaluate(described)).endswith(f"for {label}")
    maps = {await tab.evaluate(_PIXELS)}
    for number in (1, 2):
        await tab.evaluate(f"document.querySelectorAll('#labels button')[{number}].focus()")
        maps.add(await tab.evaluate(_PIXELS))
    await tab.evaluate("document.querySelector('#overlay').click()")
    maps.add(await tab.evaluate(_PIXELS))
    assert len(maps) == 4, "each label has a map of its own, and the picture none"
    assert "red" in await tab.text("#overlay-text")
    assert await tab.evaluate(described) == "The picture as the model sees it"
    assert tab.problems == []


async def test_all_is_done_with_the_keyboard(tab: Tab, demo_server: RunningServer, samples: Path, truth: Truth) -> None:
    name, label = picture_of(truth, "digits")
    await tab.open(f"http://{demo_server.http}/")
    await tab.until(_READY)
    await tab.choose(samples / name)
    await tab.tab_to(".skip")
    await tab.press("Enter")
    await tab.tab_to("#file")
    await tab.press("Enter")
    await tab.until("document.querySelectorAll('#labels li').length === 5")
    assert await tab.text("#labels li .label") == label
    await tab.tab_to("#numbers summary")
    await tab.press("Enter")
    assert await tab.evaluate("document.querySelector('#numbers').open")
    assert "Batch size" in await tab.text("#latencies thead")
    # From the end round to the list.
    await tab.tab_to(".card:not(.chosen) button")
    await tab.press("Space")
    await tab.until("document.querySelector('#picture-title').textContent.startsWith('Ask scenes')")
    assert await tab.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    assert tab.problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_narrow_window_in_both_colours_has_no_barriers(
    tab: Tab, demo_server: RunningServer, samples: Path, truth: Truth, node_modules: Path, scheme: str
) -> None:
    await tab.look(width=360, height=740, scheme=scheme)
    # For axe only: the other tests run under the policy.
    await tab.call("Page.setBypassCSP", enabled=True)
    await tab.open(f"http://{demo_server.http}/")
    await tab.until(_READY)
    await tab.drop(samples / picture_of(truth, "digits")[0])
    await tab.until("document.querySelectorAll('#labels li').length === 5")
    await tab.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert await tab.evaluate("document.documentElement.scrollWidth") <= 360
    background = await tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(244, 246, 249)", "dark": "rgb(17, 21, 27)"}[scheme]
    await tab.evaluate((node_modules / "node_modules/axe-core/axe.min.js").read_text() + "; true")
    rules = "{runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']}"
    violations = "it.violations.map((each) => [each.id, each.nodes.map((node) => node.html)])"
    found, passed = await tab.evaluate(f"axe.run({rules}).then((it) => [{violations}, it.passes.length])")
    assert found == []
    assert passed > 20


async def test_names_with_markup_are_text(tab: Tab, start_server: StartServer, tmp_path: Path) -> None:
    hostile.write(tmp_path / "models/m/1")
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    with start_server(tmp_path / "models") as server:
        await tab.open(f"http://{server.http}/")
        await tab.until(_READY)
        await tab.drop(tmp_path / "picture.png")
        await tab.until("document.querySelectorAll('#labels li').length")
        shown = "document.querySelector('{}').textContent"
        assert await tab.evaluate(shown.format("#labels .label")) == hostile.MARKUP
        assert hostile.MARKUP in await tab.evaluate(shown.format("#parity"))
        assert hostile.MARKUP in await tab.evaluate(shown.format("#assumptions"))
        # No folder can have such a name; a broken proxy may send it.
        version = {"name": hostile.MARKUP, "version": 1, "state": "refused", "reason": hostile.MARKUP, "labels": []}
        comparison = {"model": hostile.MARKUP, "mode": "canary", "state": "running", "reason": hostile.MARKUP}
        comparison |= {"share": 0.1, "answers": 0, "errors": 0}
        given = json.dumps([version]), json.dumps([comparison])
        await tab.evaluate(f"import('/page/models.js').then((it) => it.showModels({given[0]}, '', null, null))")
        await tab.evaluate(f"import('/page/comparisons.js').then((it) => it.showComparisons({given[1]}))")
        assert await tab.evaluate(shown.format("#model-list button")) == f"{hostile.MARKUP} 1"
        assert hostile.MARKUP in await tab.evaluate(shown.format("#comparison-list"))
        assert await tab.evaluate("document.querySelectorAll('img:not(#moving), main script').length") == 0
        assert await tab.evaluate("window.hacked ?? null") is None
        assert tab.problems == []


async def test_a_hidden_tab_asks_for_nothing(tab: Tab, demo_server: RunningServer) -> None:
    await tab.open(f"http://{demo_server.http}/")
    await tab.until(_READY)
    hide = "Object.defineProperty(document, 'hidden', {configurable: true, get: () => %s});"
    hide += "document.dispatchEvent(new Event('visibilitychange'));"
    counted = "performance.getEntriesByType('resource').filter((each) => each.name.endsWith('/metrics')).length"
    first = await tab.evaluate(counted)
    await tab.until(f"{counted} > {first}", limit_s=10)
    await tab.evaluate(hide % "true")
    # Of the request that may be under way, and then longer than an interval.
    pause = "new Promise((done) => setTimeout(done, %d))"
    await tab.evaluate(pause % 500)
    before = await tab.evaluate(counted)
    await tab.evaluate(pause % 3000)
    assert await tab.evaluate(counted) == before
    await tab.evaluate(hide % "false")
    await tab.until(f"{counted} > {before}", limit_s=10)
