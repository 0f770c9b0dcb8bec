"""The rehearsal of docs/operations.md, "Upgrade and rollback": three servers behind nginx, under load, lose no call."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest
import resonnx_proto
from resonnx_proto.v1 import vision_pb2 as pb
from resonnx_proto.v1 import vision_pb2_grpc
from resonnx_server import __version__
from resonnx_server.runtime.model_files.manifest import sha256sums

from ..conftest import StartServer
from ..upgrades import write as versions
from ..upgrades.answers import Answers, picture
from .replicas import NGINX, load, nginx, once, replicas

_NEXT = "1000.0.0"
_NAMES = sorted(folder.name for folder in versions.FOLDER.iterdir())
_OLDEST, _NEWEST = _NAMES[0], _NAMES[-1]


def _release_next(folder: Path) -> str:
    """Return a path of modules on which this tree is the release _NEXT, named by the packages' one file for it."""
    package = Path(resonnx_proto.__file__).parent
    shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / package.name / "VERSION").unlink()
    (folder / package.name / "VERSION").write_text(f"{_NEXT}\n")
    return str(folder)


def _publish(model: Path, version: str) -> None:
    """Add the newest exporter's classifier, with a field that only servers of _NEXT read."""
    source = versions.FOLDER / _NEWEST / "classifier/1"
    files = {path.name: path.read_bytes() for path in source.iterdir() if path.name != "SHA256SUMS"}
    manifest = json.loads(files["manifest.json"])
    files["manifest.json"] = json.dumps({**manifest, "needs_server": _NEXT}).encode()
    staged = model.parent.parent / "staged"
    staged.mkdir()
    for name, content in {**files, "SHA256SUMS": sha256sums(files)}.items():
        (staged / name).write_bytes(content)
    staged.rename(model / version)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
async def test_upgrade_and_rollback_under_load(start_server: StartServer, tmp_path: Path) -> None:
    model = tmp_path / "models/classifier"
    shutil.copytree(versions.FOLDER / _OLDEST / "classifier/1", model / "1")
    cache = tmp_path / "cache"
    shutil.copytree(versions.FOLDER / _OLDEST / "cache", cache)
    recorded: dict[int, Answers] = {
        version: json.loads((versions.FOLDER / name / "answers.json").read_text())
        for version, name in ((1, _OLDEST), (2, _NEWEST))
    }
    answered = Counter[int]()

    def asking(channel: grpc.aio.Channel) -> Callable[[], Awaitable[None]]:
        classify = vision_pb2_grpc.VisionStub(channel).Classify
        request = pb.ClassifyRequest(model="classifier", image=pb.Image(encoded=picture(0)), top_k=7)

        async def ask() -> None:
            answer = await classify(request, timeout=30, wait_for_ready=False)
            scores = {found.label: found.score for found in answer.predictions}
            assert scores == pytest.approx(dict(recorded[answer.version]["predictions"][0]), rel=1e-4, abs=1e-6)
            answered[answer.version] += 1

        return ask

    modules = os.environ.get("PYTHONPATH", "")
    this = {"PYTHONPATH": modules}
    later = {"PYTHONPATH": os.pathsep.join(filter(None, (_release_next(tmp_path / "next"), modules)))}
    poll = ("--drain-delay-s", "1", "--control-mode", "poll", "--poll-interval-s", "0.2")
    variables = {"RESONNX_LISTEN_WHEN": "loaded", "RESONNX_CACHE_DIR": str(cache), **this}

    def tables() -> set[str]:
        return {path.name for path in cache.glob("latency-*.json")}

    async with (
        replicas(start_server, model.parent, 3, *poll, **variables) as servers,
        nginx(servers, tmp_path) as target,
        load(once(target), asking) as calls,
    ):
        for address in servers.addresses:
            await servers.serves(address)
        of_this = tables()
        await servers.restart_all(**later)
        of_both = tables()
        # A new release measures anew, and leaves the former's tables.
        assert of_both > of_this
        assert answered.keys() == {1}
        _publish(model, "2")
        for address in servers.addresses:
            await servers.shows(address, "serving classifier version 2")
        await calls.more(50)
        assert answered[2]
        await servers.restart_all(**this)
        answered.clear()
        await calls.more(100)
        needed = f"the manifest needs resonnx-server {_NEXT} or later, and this is {__version__}"
        for address in servers.addresses:
            await servers.shows(address, f"refused classifier version 2: {needed}")
        assert tables() == of_both
    print(dict(calls.codes))
    assert set(calls.codes) == {"OK"}
    assert answered.keys() == {1}
