"""Captions of JPEG files against the usual loop behind FastAPI: one at a time in PyTorch or ONNX Runtime, and batches.

    PYTHONPATH=benchmarks python -m peers.captions [--callers 1,16] [--rounds 5] [--settings FILE.json] [--search 3]
        [--json FILE.json]

The same weights (random_models/captioners.py, `lstm`) and the same lengths, 6 to 18 words, drawn for each request.
The peers run in fp32; resonnx serves the export in fp32, whose captions must all be theirs, and with the encoder in
int8, for which the share of equal words is printed: random weights are harsher here than trained ones. Options are
those of peers.pictures.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import torch
from captioners.load import LENGTHS, WEIGHTS
from peers.figures import keep
from peers.http_servers import CAPTION_PEERS, RESONNX, Peer, serve_peer, serve_resonnx
from peers.load import Request
from peers.messages import ask
from peers.process import Running, wait_for
from peers.report import tables
from peers.turns import PEER_ERRORS, TRIALS, TRIED_CALLERS, Target, Trials, best, failed, load, rounds, search
from pictures.photographs import write_pictures
from random_models.captioners import captioners, weights

_MODELS: Final = ("lstm", "lstm_int8")
_LEAST_RATE: Final = 5.0
_CHECKED: Final = (7, 20)
_WHAT: Final = "captions"
_SETTINGS: Final = Path(".make/peers/settings.json")


def _queries(form: str) -> list[str]:
    """Return a query for each request, as often as its length is drawn."""
    return [
        form.format(words=words)
        for words, weight in zip(LENGTHS, WEIGHTS, strict=True)
        for _ in range(round(weight * 10))
    ]


_ASKED: Final = "?words={words}"
_ASKED_RESONNX: Final = "?min_tokens={words}&max_tokens={words}"


def captions(url: str, form: str, files: Sequence[Path]) -> list[list[str]]:
    """Return the words for every picture, and those of longer captions of the first four."""
    found = []
    for words, some in zip(_CHECKED, (files, files[:4]), strict=True):
        for file in some:
            answer = ask(url + form.format(words=words), file.read_bytes())
            text = answer["captions"][0]["text"] if "captions" in answer else " ".join(answer["words"])
            found.append(text.split())
    return found


def share(ours: Sequence[Sequence[str]], theirs: Sequence[Sequence[str]]) -> float:
    """Return the share of words that are the same at the same place."""
    pairs = [a == b for one, other in zip(ours, theirs, strict=True) for a, b in zip(one, other, strict=False)]
    return sum(pairs) / sum(map(len, theirs))


class Comparison:
    """One run: pictures, the models, and the captions that every server must give.

    Args:
        folder: For its files.
        seconds: Of a load.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self._seconds = seconds
        self._repository = captioners(_MODELS)
        self._files = write_pictures(folder)
        self._paths = [str(file) for file in self._files]
        self._models = folder / "models"
        self._models.mkdir()
        for model in _MODELS:
            (self._models / model).symlink_to((self._repository / model).resolve())
        made = (self._repository / ".peers").resolve()
        self._variables = {"PEER_MODEL": str(made / "captioner.pth"), "PEER_GRAPHS": str(made)}
        if not (made / "embedding.npy").exists():
            made.mkdir(exist_ok=True)
            torch.save(weights("lstm"), made / "captioner.pth")
            exporter = [sys.executable, str(Path(__file__).with_name("caption_graphs.py"))]
            subprocess.run([*exporter, self._variables["PEER_MODEL"], str(made)], check=True, stdout=subprocess.DEVNULL)
        self._expected: list[list[str]] = []

    @contextmanager
    def serve_resonnx(self) -> Iterator[dict[str, Target]]:
        """Serve by resonnx-server; returns a target for each model."""
        first = self._files[0].read_bytes()
        flags = ("--provider", "cpu", "--cache-dir", str((self._repository / ".cache").resolve()))
        with serve_resonnx(self._models, _MODELS[0], first, *flags, task="caption") as running:
            urls = {model: running.url.rpartition("/")[0] + "/" + model for model in _MODELS}
            targets = {}
            for model, url in urls.items():
                # A server is ready for its first model before it has loaded the others.
                wait_for(url, first)
                found = captions(url, _ASKED_RESONNX, self._files)
                self._expected = self._expected or found
                print(f"{model}: {share(found, self._expected):.3f} of the words are those of fp32")
                asked = [url + query for query in _queries(_ASKED_RESONNX)]
                targets[f"resonnx, {model}"] = Target(running, RESONNX["resonnx"], {}, asked)
            yield targets

    @contextmanager
    def serve(self, peer: Peer, settings: Mapping[str, str]) -> Iterator[Running]:
        """Serve by a peer. Raises RuntimeError if it does not start, or its captions are not resonnx's of fp32."""
        first = self._files[0].read_bytes()
        with serve_peer(peer, settings, self._variables, first, "?words=7") as running:
            found = captions(_plain(running), _ASKED, self._files)
            if found != self._expected:
                same = share(found, self._expected)
                raise RuntimeError(f"{dict(settings)}: {same:.4f} of the words are those of the fp32 export")
            yield running

    def load(self, target: Target, callers: int) -> Request:
        """Return a target's load."""
        return load(target.urls, self._paths, callers, self._seconds, _LEAST_RATE)

    def trial(self, running: Running) -> Request:
        """Return the load of a trial."""
        return load(asked_of(running), self._paths, TRIED_CALLERS, self._seconds / 2, _LEAST_RATE)


def asked_of(running: Running) -> list[str]:
    """Return the urls of a peer's requests."""
    return [_plain(running) + query for query in _queries(_ASKED)]


def _plain(running: Running) -> str:
    return running.url.partition("?")[0]


def main() -> int:
    """Measure and return the exit status: 1 if a server could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", default="1,16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--settings", type=Path, default=_SETTINGS, metavar="FILE.json")
    parser.add_argument("--search", type=int, metavar="N")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    trials = Trials(given.settings, _WHAT)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        comparison = Comparison(Path(name), given.seconds)
        # Fills the cache, and tells the right captions.
        with comparison.serve_resonnx():
            pass
        tried = CAPTION_PEERS if given.search else trials.missing(CAPTION_PEERS)
        search(trials, tried, given.search or TRIALS, comparison.serve, comparison.trial)
        if given.search:
            return 0
        targets = stack.enter_context(comparison.serve_resonnx())
        for label, peer in CAPTION_PEERS.items():
            settings: Mapping[str, str] = {}
            try:
                settings = best(trials.of(label, peer))
                running = stack.enter_context(comparison.serve(peer, settings))
                targets[label] = Target(running, peer, settings, asked_of(running))
            except PEER_ERRORS as error:
                print(f"{label}: {error}", file=sys.stderr, flush=True)
                targets[label] = failed(peer, settings, error)
        counts = [int(count) for count in given.callers.split(",")]
        servers = keep(given.json, _WHAT, rounds(targets, counts, given.rounds, comparison.load))
    print(tables(_WHAT, servers))
    return int(any(server.failures for server in servers))


if __name__ == "__main__":
    sys.exit(main())
