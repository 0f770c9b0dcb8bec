"""Takes docs/images/page-light.webp and page-dark.webp of a server of the demo models; `make screenshots` runs it.

Needs Chromium, and the models and samples that `make run ONCE=1` makes.
"""

import asyncio
import json
import tempfile
from pathlib import Path

from ....running import running
from .chromium import Tab, browser

_ROOT = Path(__file__).parents[4]
_MODELS = _ROOT / "models"
_IMAGES = _ROOT / "docs/images"
_WIDTH = 1000
# Of the window, until its page is complete.
_HEIGHT = 1000
_QUALITY = 70
# Requests before the picture is taken, so that the rates show something.
_REQUESTS = 30


async def _take(tab: Tab, model: str, picture: Path, content: bytes, scheme: str) -> bytes:
    await tab.look(width=_WIDTH, height=_HEIGHT, scheme=scheme)
    button = f"[...document.querySelectorAll('.card button')].find((each) => each.textContent === '{model} 1')"
    await tab.until(f"{button} && !{button}.disabled")
    await tab.evaluate(f"{button}.click()")
    await tab.until(f"document.querySelector('#picture-title').textContent.startsWith('Ask {model}')")
    await tab.drop(picture)
    await tab.until("document.querySelector('#timing').textContent")
    if model == "scenes":
        await tab.evaluate("document.querySelectorAll('#words button')[3].click()")
    task = "classify" if model == "digits" else "caption"
    posted = f"{{method: 'POST', body: new Blob([new Uint8Array({[*content]})])}}"
    for _ in range(_REQUESTS):
        await tab.evaluate(f"fetch('v1/{task}/{model}', {posted}).then((it) => it.status)")
    await tab.until("/Requests[1-9]/.test(document.querySelector('.card.chosen .facts').textContent)")
    await tab.look(width=_WIDTH, height=await tab.evaluate("document.documentElement.scrollHeight"), scheme=scheme)
    return await tab.screenshot(quality=_QUALITY)


async def _both(address: str, pictures: dict[str, tuple[Path, bytes]], profile: Path) -> dict[str, bytes]:
    async with browser(profile) as tab:
        await tab.open(f"http://{address}/")
        return {
            scheme: await _take(tab, model, *pictures[model], scheme)
            for model, scheme in (("digits", "light"), ("scenes", "dark"))
        }


def main() -> None:
    """Take both."""
    samples = _MODELS / ".samples"
    truth = json.loads((samples / "truth.json").read_text())
    pictures = {entry["model"]: (samples / name, (samples / name).read_bytes()) for name, entry in truth.items()}
    with tempfile.TemporaryDirectory() as folder:
        cache = {"RESONNX_CACHE_DIR": str(_MODELS / ".cache")}
        with running(_MODELS, log=Path(folder) / "log", front=None, environment=cache) as server:
            taken = asyncio.run(_both(server.http, pictures, Path(folder) / "profile"))
    for scheme, content in taken.items():
        (_IMAGES / f"page-{scheme}.webp").write_bytes(content)


if __name__ == "__main__":
    main()
