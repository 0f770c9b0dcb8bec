"""JPEG files of 640x480 to a ResNet-50 in int8, against what people serve it with: `make bench-peers`.

    PYTHONPATH=benchmarks python -m peers.jpeg [--peers "FastAPI,FastAPI + queue"] [--callers 1,16,64,256] [--rounds 5]
        [--settings FILE.json] [--json FILE.json] [--plot FILE.png]

Every server is from its own environment (.make/peers), runs the same ONNX file by the same ONNX Runtime on the CPU
provider, gets the same uploads (multipart) from the same client on the same cores, and must give the same answers to
all pictures before it is measured. Each peer is tried in every setting that may be its best, in turns; the best takes
turns with resonnx-server, round after round. `--settings` keeps the best settings for later runs, `--json` adds to
what FILE has of other runs. Exit status 1 if a server could not be measured.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from peers.http_servers import PEERS, RESONNX, Peer, Running, serve_peer, serve_resonnx
from peers.load import Request, ask
from peers.report import Server, plot, show, write
from peers.turns import LEAST_RATE, Target, fastest, load, rounds
from pictures.photographs import write_pictures
from random_models.classifiers import repository
from reports import chart
from resonnx import Client

_MODEL: Final = "resnet50_int8"
_TRIED_CALLERS: Final = 16
# Pictures are decoded by different versions of the same library.
_SAME_SCORE: Final = 2e-3


class Comparison:
    """One run: pictures, the model, and the answers that every server must give."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.seconds = seconds
        self.models = repository((_MODEL,))
        self.files = write_pictures(folder)
        self.first = self.files[0].read_bytes()
        # Alone in a repository of its own.
        self.served = folder / "models"
        self.served.mkdir()
        (self.served / _MODEL).symlink_to((self.models / _MODEL).resolve())
        self._labels = folder / "labels.txt"
        self._answers: list[dict[str, Any]] = []

    @property
    def variables(self) -> Mapping[str, str]:
        """What tells a peer the model."""
        return {
            "PEER_MODEL": str((self.models / _MODEL / "1/model.onnx").resolve()),
            "PEER_LABELS": str(self._labels),
            "PEER_PROVIDER": "CPUExecutionProvider",
        }

    def serve_resonnx(self) -> AbstractContextManager[Running]:
        """Serve by resonnx-server, with latency tables that are kept between runs."""
        cache = str((self.models / ".cache").resolve())
        return serve_resonnx(self.served, _MODEL, self.first, "--provider", "cpu", "--cache-dir", cache)

    def learn(self, resonnx: Running) -> None:
        """Take labels and right answers from resonnx."""
        with Client(grpc_url(resonnx).split("/")[2]) as client:
            manifest = client.model(_MODEL).manifest
        assert manifest is not None
        self._labels.write_text("\n".join(manifest.classifier.labels) + "\n")
        self._answers = [ask(resonnx.url, file.read_bytes()) for file in self.files]

    def check(self, running: Running) -> None:
        """Ask for all pictures. Raises RuntimeError if a server answers a picture otherwise than resonnx."""
        for file, ours in zip(self.files, self._answers, strict=True):
            theirs = ask(running.url, file.read_bytes())["predictions"]
            scores = zip(theirs, ours["predictions"], strict=True)
            same = all(abs(one["score"] - other["score"]) <= _SAME_SCORE for one, other in scores)
            if theirs[0]["label"] != ours["predictions"][0]["label"] or not same:
                raise RuntimeError(f"{running.url} answers {file.name} by {theirs}, resonnx by {ours['predictions']}")

    def load(self, url: str, callers: int, seconds: float | None = None) -> Request:
        """Return a load of so many callers."""
        return load([url], [str(file) for file in self.files], callers, seconds or self.seconds, LEAST_RATE)

    @contextmanager
    def serve(self, peer: Peer, settings: Mapping[str, str]) -> Iterator[Running]:
        """Serve by a peer whose answers are right. Raises RuntimeError if it does not start, or they are not."""
        with serve_peer(peer, settings, self.variables, self.first) as running:
            self.check(running)
            yield running

    def search(self, name: str) -> Mapping[str, str]:
        """Return a peer's best setting."""
        return fastest(
            name,
            PEERS[name],
            lambda settings: self.serve(PEERS[name], settings),
            lambda running: self.load(running.url, _TRIED_CALLERS, self.seconds / 2),
        )


def grpc_url(resonnx: Running) -> str:
    """Return where a server of `serve_resonnx` is asked by gRPC, as peers.load takes it."""
    host, _, port = resonnx.url.split("/")[2].partition(":")
    return f"grpc://{host}:{int(port) + 1}/{_MODEL}"


def compare(
    comparison: Comparison, settings: Mapping[str, Mapping[str, str]], callers: Sequence[int], number: int
) -> list[Server]:
    """Measure resonnx and peers in their settings, in turns."""
    with ExitStack() as stack:
        resonnx = stack.enter_context(comparison.serve_resonnx())
        targets = {
            "resonnx, REST": Target(resonnx, RESONNX, {}, [resonnx.url]),
            "resonnx, gRPC": Target(resonnx, RESONNX, {}, [grpc_url(resonnx)]),
        }
        for name, setting in settings.items():
            running = stack.enter_context(comparison.serve(PEERS[name], setting))
            targets[name] = Target(running, PEERS[name], setting, [running.url])
        return rounds(targets, callers, number, lambda target, count: comparison.load(target.urls[0], count))


def main() -> int:
    """Measure and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--callers", default="1,16,64,256")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="least measured time of a load")
    parser.add_argument("--settings", type=Path, metavar="FILE.json", help="best settings, searched where missing")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=chart.png, metavar="FILE.png")
    given = parser.parse_args()
    kept = json.loads(given.settings.read_text()) if given.settings and given.settings.exists() else {}
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(Path(folder), given.seconds)
        with comparison.serve_resonnx() as resonnx:
            comparison.learn(resonnx)
        settings = {}
        for name in filter(None, given.peers.split(",")):
            try:
                settings[name] = kept.get(name) or comparison.search(name)
            except RuntimeError as error:
                print(f"{name}: {error}", file=sys.stderr)
                failed = True
            # After each, as the search is long.
            if given.settings:
                given.settings.write_text(json.dumps({**kept, **settings}, indent=1) + "\n")
        servers = compare(comparison, settings, [int(count) for count in given.callers.split(",")], given.rounds)
    before = json.loads(given.json.read_text())["servers"] if given.json and given.json.exists() else []
    servers = Server.joined([Server.read(one) for one in before], servers)
    show(servers)
    if given.json:
        write(given.json, servers)
    if given.plot:
        plot(given.plot, servers)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
