"""Whether drift is told: 20 runs of good pictures without an alert, and of each kind of bad ones with one.

    python benchmarks/demo/drift.py [--runs 20] [--models digits,scenes] [--repository FOLDER] [--json FILE]

The demonstration models are exported with their reference pictures, and their graphs run on pictures in batches by ONNX
Runtime; what the server would count is counted by its own classes (resonnx_server/drift). After every 10 requests, one
looks at the readings as a scrape would. Good pictures of `digits` are drawn, with replacement, from the half of the
held-out digits that is not the reference; those of `scenes` are drawn anew. Each run of bad pictures begins once with
no requests before and once after the 2,000 good ones of a run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from resonnx_export.demo import samples
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.drift.drift import Drift, Watch
from resonnx_server.runtime.decoding.greedy import decode_all
from resonnx_server.runtime.graphs import DRIFT_FEATURES, IMAGE, CaptionerGraphs
from resonnx_server.runtime.model_files.manifest import CLASSIFIER_FILE, DECODER_FILE, ENCODER_FILE, read_version
from resonnx_server.runtime.pictures.images import fit
from resonnx_server.runtime.session import CPU, Candidate, Session
from rich.console import Console
from rich.table import Table

Pictures = npt.NDArray[np.uint8]
Bad = Callable[[Pictures, np.random.Generator], Pictures]
Good = Callable[[int, np.random.Generator], Pictures]
_GOOD: Final = 2000
_BAD: Final = 500
_LOOK: Final = 10
_BATCH: Final = 32
_SIDE: Final = 32


@dataclass(frozen=True)
class Rows:
    """What the server counts of pictures: features [n,D], and captions' tokens (none of a classifier)."""

    features: npt.NDArray[np.float32]
    captions: Sequence[Sequence[int]]


class Model:
    """One model's graphs and reference."""

    def __init__(self, folder: Path) -> None:
        version = read_version(folder)
        self.manifest = version.manifest
        drift = Drift.of(version.files, version.manifest)
        assert drift is not None
        self._drift = drift
        self._known: dict[bytes, npt.NDArray[np.float32]] = {}
        candidate = Candidate(CPU, pb.PRECISION_FP32)
        name = CLASSIFIER_FILE if CLASSIFIER_FILE in version.files else ENCODER_FILE
        self._session = Session(version.files[name], candidate, 1)
        self._captioner = None
        if name == ENCODER_FILE:
            decoder = Session(version.files[DECODER_FILE], candidate, 1)
            self._captioner = CaptionerGraphs(self._session, decoder, self.manifest)

    def watch(self) -> Watch:
        """Return a new estimate."""
        return deepcopy(self._drift.requests)

    def rows(self, pictures: Pictures) -> Rows:
        """Run the graphs on pictures uint8 [n,H,W,3]; a classifier's once on each picture that comes again."""
        if self._captioner is None:
            keys = [picture.tobytes() for picture in pictures]
            fresh = {key: row for row, key in enumerate(keys) if key not in self._known}
            if fresh:
                found = self._run(pictures[list(fresh.values())])
                self._known.update(zip(fresh, found.features, strict=True))
            return Rows(np.stack([self._known[key] for key in keys]), ())
        return self._run(pictures)

    def _run(self, pictures: Pictures) -> Rows:
        features, captions = [], []
        for start in range(0, len(pictures), _BATCH):
            batch = pictures[start : start + _BATCH]
            features.append(self._session.run({IMAGE: batch}, [DRIFT_FEATURES])[DRIFT_FEATURES])
            if self._captioner is not None:
                decoded = decode_all(self._captioner, batch, self.manifest.captioner)
                captions += [[token.id for token in each.tokens] for each in decoded]
        return Rows(np.concatenate(features), captions)


def inverted(pictures: Pictures, _: np.random.Generator) -> Pictures:
    """Return negatives."""
    return 255 - pictures


def noise(sigma: float) -> Bad:
    """Return what adds Gaussian noise, in 255ths."""

    def add(pictures: Pictures, rng: np.random.Generator) -> Pictures:
        noisy = pictures + rng.normal(0, sigma, pictures.shape)
        return noisy.round().clip(0, 255).astype(np.uint8)

    return add


def shift(pixels: int) -> Bad:
    """Return what moves pictures right and down by `pixels` of 32, repeating the border."""

    def move(pictures: Pictures, _: np.random.Generator) -> Pictures:
        by = pixels * pictures.shape[1] // _SIDE
        padded = np.pad(pictures, ((0, 0), (by, 0), (by, 0), (0, 0)), mode="edge")
        return padded[:, : pictures.shape[1], : pictures.shape[2]]

    return move


def other(draw: Good) -> Bad:
    """Return what puts pictures of another kind in place of the good ones."""
    return lambda pictures, rng: draw(len(pictures), rng)


# Changes that must raise the alert within 500 requests; then smaller changes.
_DEMANDED: Final[dict[str, Bad]] = {"inverted": inverted, "noise 20/255": noise(20), "shift 4 of 32": shift(4)}
_SMALLER: Final[dict[str, Bad]] = {
    "noise 10/255": noise(10),
    "noise 5/255": noise(5),
    "shift 2 of 32": shift(2),
    "shift 1 of 32": shift(1),
}


def good_digits(manifest: pb.Manifest) -> Good:
    """Return what draws digits, with replacement, from the half that is not the reference."""
    _, others = samples.halves_of_digits()
    stock = np.stack([fit(Image.fromarray(each), manifest.input) for each in others])
    return lambda count, rng: stock[rng.integers(len(stock), size=count)]


def good_scenes(manifest: pb.Manifest) -> Good:
    """Return what composes new scenes."""

    def draw(count: int, rng: np.random.Generator) -> Pictures:
        drawn = samples.scenes(int(rng.integers(1 << 40)), count)
        return np.stack([fit(Image.fromarray(scene.image), manifest.input) for scene in drawn])

    return draw


def looks(watch: Watch, rows: Rows) -> Iterator[tuple[int, float]]:
    """Let requests come; yield how many have come, and the largest distance in bounds, at each look."""
    count = len(rows.features)
    for start in range(0, count, _LOOK):
        watch.add_pictures(rows.features[start : start + _LOOK])
        for caption in rows.captions[start : start + _LOOK]:
            watch.add_caption(caption)
        ratios = [reading.distance / reading.bound for _, reading in watch.readings()]
        yield min(start + _LOOK, count), max(ratios, default=0.0)


def alert_at(watch: Watch, rows: Rows) -> int | None:
    """Return after how many requests a distance was above its bound, if ever."""
    return next((count for count, ratio in looks(watch, rows) if ratio > 1), None)


def measure(model: Model, good: Good, kinds: dict[str, Bad], runs: int) -> Any:
    """Return the greatest ratio of each good run and, by kind, when each run of bad pictures was told."""
    greatest = []
    told: dict[str, dict[str, list[int | None]]] = {kind: {"cold": [], "after good": []} for kind in kinds}
    for run in range(runs):
        rng = np.random.default_rng((7000, run))
        rows = model.rows(good(_GOOD, rng))
        greatest.append(max(ratio for _, ratio in looks(model.watch(), rows)))
        for kind, spoil in kinds.items():
            bad = model.rows(spoil(good(_BAD, rng), rng))
            told[kind]["cold"].append(alert_at(model.watch(), bad))
            warm = model.watch()
            for _ in looks(warm, rows):
                pass
            told[kind]["after good"].append(alert_at(warm, bad))
    return {"good": greatest, "told": told}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--models", default="digits,scenes")
    parser.add_argument("--repository", type=Path, help="exported demonstration models; they are exported without")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    results = {}
    with ExitStack() as stack:
        repository = given.repository or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if given.repository is None:
            subprocess.run([sys.executable, "-m", "resonnx_export", "demo", "--repository", repository], check=True)
        for name in given.models.split(","):
            model = Model(repository / name / "1")
            kinds = {**_DEMANDED, **_SMALLER}
            if name == "digits":
                kinds = {"scenes": other(good_scenes(model.manifest)), **kinds}
            good = (good_digits if name == "digits" else good_scenes)(model.manifest)
            results[name] = measure(model, good, kinds, given.runs)
            report(name, results[name])
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def report(name: str, result: Any) -> None:
    """Print one model's figures."""
    good = result["good"]
    table = Table(title=f"{name}: {sum(ratio > 1 for ratio in good)} of {len(good)} good runs with an alert; "
                        f"largest distance / bound {max(good):.2f}")  # fmt: skip
    for column in ("pictures", "told, cold", "after requests", "told, after good", "after requests"):
        table.add_column(column)
    for kind, told in result["told"].items():
        cells = [kind]
        for counts in told.values():
            found = [count for count in counts if count is not None]
            cells += [f"{len(found)} of {len(counts)}", f"{min(found)} to {max(found)}" if found else "-"]
        table.add_row(*cells)
    Console().print(table)


if __name__ == "__main__":
    main()
