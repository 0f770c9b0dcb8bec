"""The page in a browser, of servers with keys, with refused and compared versions, and of one that goes."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from PIL import Image
from resonnx_proto.v1 import repository_pb2 as pb
from resonnx_proto.v1 import repository_pb2_grpc
from resonnx_server.access.keys import digest_of

from ....conftest import RunningServer
from ... import answering
from .chromium import Tab, browser

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

_KEYS = {"operator": ["infer", "read", "admin"], "reader": ["read"], "asker": ["infer"]}


@pytest.fixture
async def tab(tmp_path: Path) -> AsyncIterator[Tab]:
    async with browser(tmp_path / "profile") as tab:
        yield tab


@pytest.fixture
def keyed(start_server, tmp_path: Path) -> Iterator[RunningServer]:
    """A server of `m`, and of `broken`, which is refused; with keys, each of which is its name."""
    answering.write(tmp_path / "models/m/1", 1)
    answering.write(tmp_path / "models/broken/1", 1, lies=True)
    keys = [f"[keys.{name}]\nsha256 = '{digest_of(name).hex()}'\nroles = {roles}\n" for name, roles in _KEYS.items()]
    (tmp_path / "keys.toml").write_text("".join(keys))
    (tmp_path / "resonnx.toml").write_text("[models.m]\nlabels = {stable = 1}\n")
    flags = ["--config", str(tmp_path / "resonnx.toml"), "--keys-file", str(tmp_path / "keys.toml")]
    flags += ["--admin-port", "0", "--control-mode", "explicit", "--load-models", "*"]
    with start_server(tmp_path / "models", *flags) as server:
        yield server


async def _give(tab: Tab, key: str) -> None:
    await tab.until("!document.querySelector('#key-form').hidden && document.activeElement.id === 'key'")
    await tab.call("Input.insertText", text=key)
    await tab.press("Enter")


def _network(tab: Tab) -> list[str]:
    """Problems other than that the server refuses to answer without a key or a role."""
    return [each for each in tab.problems if " 401 " not in each and " 403 " not in each]


async def test_a_key_is_asked_for_and_kept_nowhere(tab: Tab, keyed: RunningServer, tmp_path: Path) -> None:
    await tab.open(f"http://{keyed.http}/")
    await _give(tab, "nobody")
    await tab.until("document.querySelector('#key-problem').textContent")
    assert await tab.evaluate("document.querySelector('#models').hidden")
    await _give(tab, "reader")
    await tab.until("!document.querySelector('#models').hidden && !document.querySelector('#picture').hidden")
    assert await tab.evaluate("document.querySelector('#key').value") == ""
    kept = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"
    assert await tab.evaluate(kept) == json.dumps([{}, {}, "", f"http://{keyed.http}/"]).replace(", ", ",")
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    await tab.drop(tmp_path / "picture.png")
    await tab.until("document.querySelector('#problem').textContent.includes('ROLE_MISSING')")
    await tab.evaluate("document.querySelector('#forget').click()")
    await _give(tab, "operator")
    await tab.until("!document.querySelector('#picture').hidden")
    await tab.drop(tmp_path / "picture.png")
    await tab.until("document.querySelectorAll('#labels li').length")
    assert await tab.text("#labels .label") == "class 1"
    await tab.evaluate("document.querySelector('#forget').click()")
    assert await tab.evaluate("document.querySelector('#labels').children.length") == 0
    await _give(tab, "asker")
    await tab.until("document.querySelector('#state').textContent.includes('ROLE_MISSING')")
    assert _network(tab) == []


async def test_refused_versions_and_comparisons_are_shown(tab: Tab, keyed: RunningServer, tmp_path: Path) -> None:
    answering.write(tmp_path / "models/m/2", 2)
    metadata = [("authorization", "Bearer operator")]
    await tab.open(f"http://{keyed.http}/")
    await _give(tab, "operator")
    await tab.until("document.querySelector('#state').textContent === 'Versions: 1 serving, 1 refused'")
    assert await tab.text(".card .state.refused") == "refused"
    assert "golden" in await tab.text(".card .problem:not([hidden])")
    assert await tab.evaluate("document.querySelector('.card button:disabled').textContent") == "broken 1"
    with grpc.insecure_channel(keyed.admin) as channel:
        stub = repository_pb2_grpc.RepositoryStub(channel)
        mode = pb.COMPARISON_MODE_CANARY
        request = pb.StartComparisonRequest(model="m", version=2, mode=mode, share=0.25)
        stub.StartComparison(request, metadata=metadata, timeout=60)
        await tab.until("!document.querySelector('#comparisons').hidden")
        shown = await tab.text("#comparison-list")
        assert "m: version 2 beside 1 running" in shown
        assert "canary: 25.0 % of callers are answered by it" in shown
        stub.Rollback(pb.RollbackRequest(model="m"), metadata=metadata, timeout=60)
        await tab.until("document.querySelector('#comparison-list .state').textContent === 'rolled back'")
    assert _network(tab) == []


async def test_a_server_that_goes_is_told(tab: Tab, keyed: RunningServer) -> None:
    await tab.open(f"http://{keyed.http}/")
    await _give(tab, "operator")
    await tab.until("document.querySelector('#state').textContent.startsWith('Versions')")
    keyed.stop()
    await tab.until("document.querySelector('#state').textContent === 'The server does not answer. Trying again.'")
