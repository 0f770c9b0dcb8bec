"""Chromium without a window, driven by its DevTools protocol; it reaches nothing but this machine."""

import asyncio
import base64
import contextlib
import itertools
import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-port=0",
)
_LISTENING = re.compile(rb"DevTools listening on (ws://\S+)")
_START_S = 30
# A call of the protocol, and a change of the page that a test waits for.
_CALL_S = 30
_POLL_S = 0.03


def program() -> str:
    """Return Chromium's path, or skip the test."""
    found = next((path for name in _PROGRAMS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"needs Chromium ({', '.join(_PROGRAMS)})")
    return found


class Tab:
    """A tab of a browser.

    Attributes:
        problems: Errors and warnings of the console, exceptions, and violations of the page's policy.
        requested: Addresses that the page has asked for.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._session: str | None = None
        self.problems: list[str] = []
        self.requested: list[str] = []
        self._files: list[str] = []

    async def read(self) -> None:
        """Take answers and events until the connection ends."""
        async for message in self._socket:
            told = json.loads(message.data)
            if (answer := self._answers.pop(told.get("id"), None)) is not None:
                answer.set_result(told)
            elif "method" in told:
                self._note(told["method"], told["params"])

    def _note(self, name: str, what: dict[str, Any]) -> None:
        if name == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"{what['entry']['text']} {what['entry'].get('url', '')}")
        elif name == "Runtime.exceptionThrown":
            self.problems.append(what["exceptionDetails"].get("exception", {}).get("description", "an exception"))
        elif name == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning"):
            self.problems.append(str(what["args"]))
        elif name == "Network.requestWillBeSent":
            self.requested.append(what["request"]["url"])
        elif name == "Page.fileChooserOpened":
            files = {"files": self._files, "backendNodeId": what["backendNodeId"]}
            asyncio.get_running_loop().create_task(self.call("DOM.setFileInputFiles", **files))

    async def attach(self) -> Self:
        """Open the tab."""
        target = (await self.call("Target.createTarget", url="about:blank"))["targetId"]
        self._session = (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            await self.call(f"{domain}.enable")
        return self

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol."""
        number = next(self._numbers)
        self._answers[number] = answer = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": parameters}
        await self._socket.send_json(message | ({"sessionId": self._session} if self._session else {}))
        told = await asyncio.wait_for(answer, _CALL_S)
        assert "error" not in told, f"{method}: {told['error']}"
        result: dict[str, Any] = told["result"]
        return result

    async def evaluate(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        told = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    async def until(self, script: str, limit_s: float = 20) -> None:
        """Return when an expression is true; fail with the page's text after the limit."""
        end = asyncio.get_running_loop().time() + limit_s
        while not await self.evaluate(f"Boolean({script})"):
            if asyncio.get_running_loop().time() > end:
                shown = await self.evaluate("document.body.innerText")
                pytest.fail(f"never: {script}\n{shown}\n{self.problems}")
            await asyncio.sleep(_POLL_S)

    async def text(self, selector: str) -> str:
        """Return the text of the first element of a selector that is shown, in one line; "" if none is."""
        script = f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"
        return " ".join(str(await self.evaluate(script)).split())

    async def open(self, address: str) -> None:
        """Load a page."""
        await self.call("Page.navigate", url=address)
        await self.until("document.readyState === 'complete' && location.protocol === 'http:'")

    async def drop(self, *files: Path) -> None:
        """Drop files on the middle of the window, as from a file manager."""
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            await self.call("Input.dispatchDragEvent", type=kind, x=150, y=150, data=data)

    async def choose(self, file: Path) -> None:
        """Answer the next dialogs for a file with this one."""
        self._files = [str(file)]
        await self.call("Page.setInterceptFileChooserDialog", enabled=True)

    async def press(self, key: str, text: str = "") -> None:
        """Press and release a key by its name, as "Tab", "Enter" or "Space"."""
        codes = {"Tab": 9, "Enter": 13, "Space": 32}
        names = {"Space": " "}
        typed = text or {"Enter": "\r", "Space": " "}.get(key, "")
        what = {"key": names.get(key, key), "code": key, "windowsVirtualKeyCode": codes.get(key, 0)}
        await self.call("Input.dispatchKeyEvent", type="keyDown", text=typed, **what)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **what)

    async def tab_to(self, selector: str) -> None:
        """Press Tab until an element has the focus."""
        for _ in range(60):
            await self.press("Tab")
            if await self.evaluate(f"document.activeElement.matches({json.dumps(selector)})"):
                return
        pytest.fail(f"Tab does not lead to {selector}")

    async def look(self, *, width: int = 1000, height: int = 900, scheme: str = "light") -> None:
        """Set the window's size and the colours that the user prefers."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", features=features)

    async def screenshot(self, kind: str = "webp", quality: int = 80) -> bytes:
        """Return a picture of the window."""
        return base64.b64decode((await self.call("Page.captureScreenshot", format=kind, quality=quality))["data"])


@contextlib.asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Tab]:
    """Start Chromium with a profile in `folder`, and yield a tab."""
    command = [program(), *_FLAGS, f"--user-data-dir={folder}"]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        assert process.stderr is not None
        async with asyncio.timeout(_START_S):
            while (match := _LISTENING.search(line := await process.stderr.readline())) is None:
                assert line, "Chromium ended"
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(match[1].decode(), max_msg_size=0) as socket,
        ):
            tab = Tab(socket)
            reading = asyncio.create_task(tab.read())
            try:
                yield await tab.attach()
            finally:
                reading.cancel()
    finally:
        process.kill()
        await process.wait()
