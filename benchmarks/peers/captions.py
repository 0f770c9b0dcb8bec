"""Captions of JPEG files against the usual loop in PyTorch behind FastAPI: one at a time, and batches by hand.

    PYTHONPATH=benchmarks python -m peers.captions [--callers 16] [--rounds 5] [--settings FILE.json] [--json FILE.json]

The same weights (random_models/captioners.py, `lstm`) and the same lengths, 6 to 18 words, drawn for each request.
PyTorch runs in fp32; resonnx serves the export in fp32, whose captions must all be PyTorch's, and with the encoder in
int8, for which the share of equal words is printed: random weights are harsher here than trained ones.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import torch
from captioners.load import LENGTHS, WEIGHTS
from peers.http_servers import CAPTION_PEERS, RESONNX, Peer, Running, serve_peer, serve_resonnx, wait_for
from peers.load import Request, ask
from peers.report import show, write
from peers.turns import Target, fastest, load, rounds
from pictures.photographs import write_pictures
from random_models.captioners import captioners, weights

_MODELS: Final = ("lstm", "lstm_int8")
_LEAST_RATE: Final = 5.0
_TRIED_CALLERS: Final = 16
_CHECKED: Final = (7, 20)


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


def main() -> int:
    """Measure and return the exit status: 1 if captions differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", default="16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--settings", type=Path, metavar="FILE.json", help="best settings, searched where missing")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    kept = json.loads(given.settings.read_text()) if given.settings and given.settings.exists() else {}
    repository = captioners(_MODELS)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        files = write_pictures(folder)
        first = files[0].read_bytes()
        checkpoint = folder / "captioner.pth"
        torch.save(weights("lstm"), checkpoint)
        (folder / "models").mkdir()
        for model in _MODELS:
            (folder / "models" / model).symlink_to((repository / model).resolve())
        cache = str((repository / ".cache").resolve())
        flags = ("--provider", "cpu", "--cache-dir", cache)
        # Fills the cache.
        with serve_resonnx(folder / "models", _MODELS[0], first, *flags, task="caption"):
            pass
        resonnx = stack.enter_context(serve_resonnx(folder / "models", _MODELS[0], first, *flags, task="caption"))
        urls = {model: resonnx.url.rpartition("/")[0] + "/" + model for model in _MODELS}
        # A server is ready for its first model before it has loaded the others.
        for url in urls.values():
            wait_for(url, first)
        expected = captions(urls["lstm"], _ASKED_RESONNX, files)
        rounded = captions(urls["lstm_int8"], _ASKED_RESONNX, files)
        print(f"int8: {share(rounded, expected):.3f} of the words are those of fp32")

        @contextmanager
        def serve(peer: Peer, settings: Mapping[str, str]) -> Iterator[Running]:
            with serve_peer(peer, settings, {"PEER_MODEL": str(checkpoint)}, first, "?words=7") as running:
                found = captions(running.url.partition("?")[0], _ASKED, files)
                if found != expected:
                    same = share(found, expected)
                    raise RuntimeError(f"{dict(settings)}: {same:.4f} of the words are those of the fp32 export")
                yield running

        paths = [str(file) for file in files]

        def request(target: Target, callers: int) -> Request:
            return load(target.urls, paths, callers, given.seconds, _LEAST_RATE)

        def asked_of(running: Running) -> list[str]:
            return [running.url.partition("?")[0] + query for query in _queries(_ASKED)]

        settings: dict[str, Mapping[str, str]] = {}
        for label, peer in CAPTION_PEERS.items():
            settings[label] = kept.get(label) or fastest(
                label,
                peer,
                lambda tried, peer=peer: serve(peer, tried),  # type: ignore[misc]
                lambda running: load(asked_of(running), paths, _TRIED_CALLERS, given.seconds / 2, _LEAST_RATE),
            )
            # After each, as the search is long.
            if given.settings:
                given.settings.write_text(json.dumps({**kept, **settings}, indent=1) + "\n")
        queries = _queries(_ASKED_RESONNX)
        targets = {
            f"resonnx, {model}": Target(resonnx, RESONNX, {}, [urls[model] + query for query in queries])
            for model in _MODELS
        }
        for label, peer in CAPTION_PEERS.items():
            running = stack.enter_context(serve(peer, settings[label]))
            targets[label] = Target(running, peer, settings[label], asked_of(running))
        servers = rounds(targets, [int(count) for count in given.callers.split(",")], given.rounds, request)
    show(servers)
    if given.json:
        write(given.json, servers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
