"""Pictures to a ResNet-50 in int8, against what people serve it with: `make bench-peers`.

    PYTHONPATH=benchmarks python -m peers.pictures [--input pixels] [--peers "FastAPI,FastAPI + queue"]
        [--callers 1,16,64,256] [--rounds 5] [--settings FILE.json] [--json FILE.json] [--search]

The input is JPEG files of 640x480 or, with `--input pixels`, the model's uint8 pixels. Every server is from its own
environment (.make/peers), runs the same ONNX file by the same ONNX Runtime on the CPU provider (those named OpenVINO:
on that), is asked by the same client on the same cores, and must give the same answers to all pictures before it is
measured. Each peer is tried in every setting that may be its best, in turns; the best takes turns with resonnx-server,
round after round. `--settings` keeps the trials for later runs, `--json` adds rounds to those that FILE has of the same
settings; `peers.report` shows them. Exit status 1 if a server could not be measured.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from peers.figures import Server, keep
from peers.http_servers import PEERS, RESONNX, Peer, serve_peer, serve_resonnx
from peers.load import Request
from peers.messages import ask, predictions
from peers.process import Running
from peers.report import tables
from peers.tensor_servers import Model, Tuning, serve_tensors, tunings
from peers.turns import LEAST_RATE, Target, Trials, best, load, rounds, search
from pictures.photographs import write_pictures
from random_models.classifiers import repository
from resonnx import Client
from resonnx_server.runtime.machine.host import usable_cores
from resonnx_server.runtime.pictures import images
from resonnx_server.runtime.pictures.options import PictureOptions

_MODEL: Final = "resnet50_int8"
_TRIED_CALLERS: Final = 16
# Pictures are decoded by different versions of the same library.
_SAME_SCORE: Final = 2e-3
# Int8 kernels of OpenVINO round otherwise.
_SAME_OF_OPENVINO: Final = 5e-2
_PROVIDER: Final = "CPUExecutionProvider"
_TENSOR_PEERS: Final = {
    name: Peer(environment, package, "", tuple(one.settings for one in tunings(environment, usable_cores())))
    for name, environment, package in (
        ("Triton, Python backend", "triton", "nvidia-pytriton"),
        ("MLServer", "mlserver", "mlserver"),
    )
}
ALL_PEERS: Final = {**PEERS, **_TENSOR_PEERS}
_INPUTS: Final = {"jpeg": "JPEG files", "pixels": "pixels"}


class Comparison:
    """One run: pictures, the model, and the answers that every server must give.

    Args:
        folder: For its files.
        given: "jpeg" or "pixels".
        seconds: Of a load.
    """

    def __init__(self, folder: Path, given: str, seconds: float) -> None:
        self.seconds, self._given = seconds, given
        self.models = repository((_MODEL,))
        self._jpeg = write_pictures(folder)
        # Alone in a repository of its own.
        self.served = folder / "models"
        self.served.mkdir()
        (self.served / _MODEL).symlink_to((self.models / _MODEL).resolve())
        self._folder = folder
        self._labels: list[str] = []
        self._answers: list[list[tuple[str, float]]] = []
        self.files = self._jpeg

    @property
    def _first(self) -> bytes:
        return self.files[0].read_bytes()

    def serve_resonnx(self, name: str = "resonnx") -> AbstractContextManager[Running]:
        """Serve by resonnx-server of an environment, with latency tables that are kept between runs."""
        flags = ["--cache-dir", str((self.models / ".cache" / name).resolve())]
        if name == "resonnx":
            flags += ["--provider", "cpu"]
        return serve_resonnx(self.served, _MODEL, self._jpeg[0].read_bytes(), *flags, name=name)

    def learn(self, resonnx: Running) -> None:
        """Take labels, preprocessing and right answers from resonnx."""
        with Client(grpc_url(resonnx).split("/")[2]) as client:
            manifest = client.model(_MODEL).manifest
        assert manifest is not None
        self._labels = list(manifest.classifier.labels)
        (self._folder / "labels.txt").write_text("\n".join(self._labels) + "\n")
        self._answers = [predictions(ask(resonnx.url, file.read_bytes()), self._labels) for file in self._jpeg]
        if self._given == "pixels":
            self.files = [file.with_suffix(".rgb") for file in self._jpeg]
            for jpeg, file in zip(self._jpeg, self.files, strict=True):
                pixels = images.load(jpeg.read_bytes(), PictureOptions(manifest.input))
                file.write_bytes(np.ascontiguousarray(pixels).tobytes())

    def check(self, url: str, within: float) -> None:
        """Ask for all pictures. Raises RuntimeError if a server answers a picture otherwise than resonnx."""
        for file, ours in zip(self.files, self._answers, strict=True):
            theirs = predictions(ask(url, file.read_bytes()), self._labels)
            same = all(abs(one - other) <= within for (_, one), (_, other) in zip(theirs, ours, strict=True))
            if theirs[0][0] != ours[0][0] or not same:
                raise RuntimeError(f"{url} answers {file.name} by {theirs}, resonnx by {ours}")

    def load(self, url: str, callers: int, seconds: float | None = None) -> Request:
        """Return a load of so many callers."""
        return load([url], [str(file) for file in self.files], callers, seconds or self.seconds, LEAST_RATE)

    @contextmanager
    def serve(self, peer: Peer, settings: Mapping[str, str]) -> Iterator[Running]:
        """Serve by a peer whose answers are right. Raises RuntimeError if it does not start, or they are not."""
        file = (self.models / _MODEL / "1/model.onnx").resolve()
        variables = {"PEER_MODEL": str(file), "PEER_LABELS": str(self._folder / "labels.txt")}
        variables |= {"PEER_PROVIDER": _PROVIDER, "PEER_INPUT": self._given}
        if peer in _TENSOR_PEERS.values():
            model = Model(_MODEL, file, _PROVIDER, "int8")
            serving = serve_tensors(peer.environment, model, Tuning.of(settings), self._first)
        else:
            serving = serve_peer(peer, settings, variables, self._first)
        with serving as running:
            self.check(running.url, _SAME_OF_OPENVINO if "openvino" in peer.environment else _SAME_SCORE)
            yield running


def grpc_url(resonnx: Running, given: str = "jpeg") -> str:
    """Return where a server of `serve_resonnx` is asked by gRPC, as peers.messages takes it."""
    host, _, port = resonnx.url.split("/")[2].partition(":")
    place = f"{host}:{int(port) + 1}/{_MODEL}"
    return f"infer://{place}/image" if given == "pixels" else f"classify://{place}"


def rest_url(resonnx: Running, given: str) -> str:
    """Return where it is asked by HTTP."""
    return resonnx.url.replace("/v1/classify/", "/v2/models/") + "/infer" if given == "pixels" else resonnx.url


def compare(
    comparison: Comparison, given: str, settings: Mapping[str, Mapping[str, str]], callers: Sequence[int], number: int
) -> Iterator[list[Server]]:
    """Measure resonnx and peers in their settings, in turns; gives the figures of each round."""
    with ExitStack() as stack:
        running = stack.enter_context(comparison.serve_resonnx())
        plain, other = RESONNX.values()
        urls = {"resonnx, REST": rest_url(running, given), "resonnx, gRPC": grpc_url(running, given)}
        targets = {name: Target(running, plain, {}, [url]) for name, url in urls.items()}
        for url in urls.values():
            comparison.check(url, _SAME_SCORE)
        if any("OpenVINO" in name for name in settings):
            running = stack.enter_context(comparison.serve_resonnx(other.environment))
            targets["resonnx, gRPC, OpenVINO"] = Target(running, other, {}, [grpc_url(running, given)])
            comparison.check(targets["resonnx, gRPC, OpenVINO"].urls[0], _SAME_OF_OPENVINO)
        for name, setting in settings.items():
            running = stack.enter_context(comparison.serve(ALL_PEERS[name], setting))
            targets[name] = Target(running, ALL_PEERS[name], setting, [running.url])
        yield from rounds(targets, callers, number, lambda target, count: comparison.load(target.urls[0], count))


def main() -> int:
    """Measure and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", choices=tuple(_INPUTS), default="jpeg")
    parser.add_argument("--peers", default=";".join(ALL_PEERS), help='divided by ";"')
    parser.add_argument("--callers", default="1,16,64,256")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="least measured time of a load")
    parser.add_argument("--settings", type=Path, metavar="FILE.json", help="trials, which are made where missing")
    parser.add_argument("--search", action="store_true", help="only make further trials")
    parser.add_argument("--json", type=Path, metavar="FILE.json", help="add the figures to it")
    given = parser.parse_args()
    trials, failed = Trials(given.settings), False
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(Path(folder), given.input, given.seconds)
        with comparison.serve_resonnx() as resonnx:
            comparison.learn(resonnx)
        settings = {}
        for name in filter(None, given.peers.split(";")):
            peer = ALL_PEERS[name]
            try:
                if given.search or not trials.of(name):
                    found = search(
                        name,
                        peer,
                        trials.of(name),
                        lambda tried, peer=peer: comparison.serve(peer, tried),  # type: ignore[misc]
                        lambda running: comparison.load(running.url, _TRIED_CALLERS, given.seconds / 2),
                    )
                    trials.keep(name, found)
                settings[name] = best(trials.of(name))
            except RuntimeError as error:
                print(f"{name}: {error}", file=sys.stderr)
                failed = True
        if given.search:
            return int(failed)
        counts = [int(count) for count in given.callers.split(",")]
        measured = compare(comparison, given.input, settings, counts, given.rounds)
        servers = keep(given.json, _INPUTS[given.input], measured)
    print(tables(_INPUTS[given.input], servers))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
