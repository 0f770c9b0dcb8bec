"""Pictures to a ResNet-50 in int8, against what people serve it with: `make bench-peers`.

    PYTHONPATH=benchmarks python -m peers.pictures [--input pixels] [--peers "FastAPI;FastAPI + queue"]
        [--callers 16,1,64,256] [--rounds 2] [--seconds 3] [--settings FILE.json] [--search 3]
        [--json FILE.json] [--plot FILE.png]

The input is JPEG files of 640x480 or, with `--input pixels`, the model's uint8 pixels. Every server is from its own
environment (.make/peers), runs the same ONNX file by the same ONNX Runtime on the CPU provider (those named OpenVINO:
on that), is asked by the same client on the same cores, and must answer all pictures as ONNX Runtime does before it is
measured. Each peer is tried in every setting that may be its best, in turns; the best takes turns with the others and
resonnx-server, round after round. A number of callers that is given twice is measured twice in a round. `--settings`
keeps the trials for later runs, `--json` adds rounds to those that FILE has of the same settings; `peers.report` shows
them. A server that fails or hangs is told as such, and the others are measured. Exit status 1 if there was one.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime as ort
from peers.figures import Server, keep
from peers.http_servers import APPS, PEERS, RESONNX, Peer, serve_peer, serve_resonnx
from peers.load import Request
from peers.messages import ask, predictions
from peers.process import Running
from peers.report import plot, tables
from peers.tensor_servers import Model, Tuning, serve_tensors, tunings
from peers.turns import (
    LEAST_RATE,
    PEER_ERRORS,
    TRIALS,
    TRIED_CALLERS,
    TRIED_S,
    Target,
    Trials,
    best,
    failed,
    load,
    rounds,
    search,
    told,
)
from pictures.photographs import write_pictures
from random_models.classifiers import repository
from reports import chart
from resonnx_server.runtime.machine.host import usable_cores

# What the peers decode with.
sys.path.append(str(APPS))
from uploads import pixels

_MODEL: Final = "resnet50_int8"
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
SETTINGS: Final = Path(".make/peers/settings.json")


class Comparison:
    """One run: pictures, the model, and the answers that every server must give: those of ONNX Runtime alone.

    Args:
        folder: For its files.
        given: "jpeg" or "pixels".
        seconds: Of a load.
    """

    def __init__(self, folder: Path, given: str, seconds: float) -> None:
        self._seconds, self._given = seconds, given
        self._models = repository((_MODEL,))
        self._version = (self._models / _MODEL / "1").resolve()
        # Alone in a repository of its own.
        self._served = folder / "models"
        self._served.mkdir()
        (self._served / _MODEL).symlink_to(self._version.parent)
        manifest = json.loads((self._version / "manifest.json").read_text())
        self._labels: list[str] = manifest["classifier"]["labels"]
        self._labels_file = folder / "labels.txt"
        self._labels_file.write_text("\n".join(self._labels) + "\n")
        self._jpeg = write_pictures(folder)
        images = [pixels(file.read_bytes()) for file in self._jpeg]
        session = ort.InferenceSession(self._version / "model.onnx", providers=[_PROVIDER])
        self._answers = [
            predictions({"probabilities": session.run(["probabilities"], {"image": image[None]})[0]}, self._labels)
            for image in images
        ]
        self._files = self._jpeg
        if given == "pixels":
            self._files = [file.with_suffix(".rgb") for file in self._jpeg]
            for image, file in zip(images, self._files, strict=True):
                file.write_bytes(np.ascontiguousarray(image).tobytes())

    def serve_resonnx(self, name: str = "resonnx") -> AbstractContextManager[Running]:
        """Serve by resonnx-server of an environment, with latency tables that are kept between runs."""
        flags = ["--cache-dir", str((self._models / ".cache" / name).resolve())]
        if name == "resonnx":
            flags += ["--provider", "cpu"]
        return serve_resonnx(self._served, _MODEL, self._jpeg[0].read_bytes(), *flags, name=name)

    def check(self, url: str, environment: str) -> None:
        """Ask for all pictures. Raises RuntimeError if a server answers one otherwise than ONNX Runtime alone."""
        within = _SAME_OF_OPENVINO if "openvino" in environment else _SAME_SCORE
        for file, right in zip(self._files, self._answers, strict=True):
            theirs = predictions(ask(url, file.read_bytes()), self._labels)
            same = all(abs(one - other) <= within for (_, one), (_, other) in zip(theirs, right, strict=True))
            if theirs[0][0] != right[0][0] or not same:
                raise RuntimeError(f"{url} answers {file.name} by {theirs}, ONNX Runtime by {right}")

    def load(self, target: Target, callers: int) -> Request:
        """Return a load of so many callers."""
        return load(target.urls, [str(file) for file in self._files], callers, self._seconds, LEAST_RATE)

    def trial(self, running: Running) -> Request:
        """Return the load of a trial."""
        return load([running.url], [str(file) for file in self._files], TRIED_CALLERS, TRIED_S, LEAST_RATE)

    @contextmanager
    def serve(self, peer: Peer, settings: Mapping[str, str]) -> Iterator[Running]:
        """Serve by a peer whose answers are right. Raises one of PEER_ERRORS if it does not start, or they are not."""
        first = self._files[0].read_bytes()
        file = self._version / "model.onnx"
        variables = {"PEER_MODEL": str(file), "PEER_LABELS": str(self._labels_file)}
        variables |= {"PEER_PROVIDER": _PROVIDER, "PEER_INPUT": self._given}
        if peer in _TENSOR_PEERS.values():
            model = Model(_MODEL, file, _PROVIDER, "int8")
            serving = serve_tensors(peer.environment, model, Tuning.of(settings), first)
        else:
            serving = serve_peer(peer, settings, variables, first)
        with serving as running:
            self.check(running.url, peer.environment)
            yield running

    def targets(self, stack: ExitStack, settings: Mapping[str, Mapping[str, str]]) -> dict[str, Target]:
        """Start resonnx, and peers in their settings; those that fail are noted as such."""
        targets = {}
        for peer in RESONNX.values():
            suffix = ", OpenVINO" if "openvino" in peer.environment else ""
            if suffix and not any(suffix in name for name in settings):
                continue
            try:
                # Measures its latency tables and judges providers where that was not done yet.
                with self.serve_resonnx(peer.environment):
                    pass
                running = stack.enter_context(self.serve_resonnx(peer.environment))
                for way, url in (("gRPC", self._grpc(running)), ("REST", self._rest(running))):
                    self.check(url, peer.environment)
                    if way == "gRPC" or not suffix:
                        targets[f"resonnx, {way}{suffix}"] = Target(running, peer, {}, [url])
            except PEER_ERRORS as error:
                print(f"resonnx{suffix}: {error}", file=sys.stderr, flush=True)
                targets[f"resonnx, gRPC{suffix}"] = failed(peer, {}, error)
        for name, setting in settings.items():
            peer = ALL_PEERS[name]
            try:
                running = stack.enter_context(self.serve(peer, setting))
                targets[name] = Target(running, peer, setting, [running.url])
            except PEER_ERRORS as error:
                print(f"{name}: {error}", file=sys.stderr, flush=True)
                targets[name] = failed(peer, setting, error)
        return targets

    def _grpc(self, resonnx: Running) -> str:
        """Return where a server of `serve_resonnx` is asked by gRPC, as peers.messages takes it."""
        host, _, port = resonnx.url.split("/")[2].partition(":")
        place = f"{host}:{int(port) + 1}/{_MODEL}"
        return f"infer://{place}/image" if self._given == "pixels" else f"classify://{place}"

    def _rest(self, resonnx: Running) -> str:
        """Return where it is asked by HTTP."""
        if self._given == "pixels":
            return resonnx.url.replace("/v1/classify/", "/v2/models/") + "/infer"
        return resonnx.url


def compare(
    comparison: Comparison, settings: Mapping[str, Mapping[str, str]], callers: Sequence[int], number: int
) -> Iterator[list[Server]]:
    """Measure resonnx and peers in their settings, in turns; gives the figures of each round."""
    with ExitStack() as stack:
        yield from rounds(comparison.targets(stack, settings), callers, number, comparison.load)


def main() -> int:
    """Measure and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", choices=tuple(_INPUTS), default="jpeg")
    parser.add_argument("--peers", default=";".join(ALL_PEERS), help='divided by ";"')
    parser.add_argument("--callers", default="16,1,16,64,16,256")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0, help="least measured time of a load")
    parser.add_argument("--settings", type=Path, default=SETTINGS, metavar="FILE.json", help="trials, and more")
    parser.add_argument("--search", type=int, metavar="N", help="only try each setting until it was tried N times")
    parser.add_argument("--json", type=Path, metavar="FILE.json", help="add the figures to it")
    parser.add_argument("--plot", type=chart.png, metavar="FILE.png")
    given = parser.parse_args()
    peers = {name: ALL_PEERS[name] for name in filter(None, given.peers.split(";"))}
    trials, what = Trials(given.settings, given.input), _INPUTS[given.input]
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(Path(folder), given.input, given.seconds)
        tried = peers if given.search else trials.missing(peers)
        search(trials, tried, given.search or TRIALS, comparison.serve, comparison.trial)
        if given.search:
            return 0
        settings, unusable = {}, []
        for name, peer in peers.items():
            try:
                settings[name] = best(trials.of(name, peer))
            except RuntimeError as error:
                unusable.append(f"{name}: {told(error)}")
        counts = [int(count) for count in given.callers.split(",")]
        servers = keep(given.json, what, compare(comparison, settings, counts, given.rounds))
    print("\n\n".join([tables(what, servers), *unusable]))
    if given.plot:
        plot(given.plot, [(what, servers)])
    return int(bool(unusable) or any(server.failures for server in servers))


if __name__ == "__main__":
    sys.exit(main())
