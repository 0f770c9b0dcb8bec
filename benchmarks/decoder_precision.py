"""Speed and captions of decoders with quantised weights against fp32, on the CPU provider.

    python benchmarks/decoder_precision.py [--rounds 5] [--pictures 2000] [--demo MODELS] [--json FILE]

Speed is the median time of a step of 1, 16 and 64 rows of the LSTM and the attention decoder of `random_models/`;
all ways take turns in each round, and a ratio is to fp32 in the same round. Words are greedy captions of random
pictures on the same two, and of random scenes on the demo's `scenes` (exported if --demo names no repository). Random
decoders say the same of nearly every picture, so each caption begins with a random word there. A picture whose words
differ is a near-tie where fp32's two best words, at the first that differs, are less than 1e-4 of log-probability
apart. "beside others" is how far a row's log-probabilities move when 15 other rows share its step.
"""

import argparse
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
from captioners.decoder_weights import VARIANTS, variant
from captioners.decoders import EncodedPictures, captioner_files, open_graphs, random_pictures, rows_of
from reports.rounds import Rounds
from resonnx_export.demo import samples
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.graphs import CaptionerGraphs
from resonnx_server.runtime.model_files.manifest import DECODER_FILE, VersionFiles
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.session import Array
from rich.console import Console
from rich.table import Table

_MODELS: Final = ("lstm_int8", "attention_int8")
_ROWS: Final = (1, 16, 64)
_SECONDS: Final = 0.15
_TOGETHER: Final = 64
_NEAR_TIE: Final = 1e-4


@dataclass
class Words:
    """Captions of one way beside fp32's.

    Attributes:
        distinct: Different captions of fp32 among the first 64 pictures.
        same: Pictures whose tokens are all the same.
        near_ties: Pictures that differ first where fp32 was nearly undecided.
        beside_others: Greatest change of a log-probability by company.
    """

    model: str
    way: str
    pictures: int = 0
    distinct: int = 0
    same: int = 0
    near_ties: int = 0
    beside_others: float = 0.0


def open_ways(files: VersionFiles) -> dict[str, CaptionerGraphs]:
    """Open fp32 and every way that this provider runs; the others are reported."""
    ways = {"fp32": open_graphs(files)}
    for name in VARIANTS:
        try:
            ways[name] = open_graphs(files, variant(files.files[DECODER_FILE], name))
        except ModelRefused as refused:
            print(f"{name}: {refused.message}", file=sys.stderr)
    return ways


def measure_steps(figures: Rounds, model: str, ways: dict[str, CaptionerGraphs], pictures: EncodedPictures) -> None:
    """Measure one round of all ways: ms a step."""
    for rows in _ROWS:
        tokens = np.arange(rows)
        state, features = rows_of(pictures.state, rows), rows_of(pictures.features, rows)
        for name, graphs in ways.items():
            graphs.step(tokens, state, features)
            times, start = [], time.perf_counter()
            while (begun := time.perf_counter()) < start + _SECONDS:
                graphs.step(tokens, state, features)
                times.append(time.perf_counter() - begun)
            figures.add(model, str(rows), name, value=median(times) * 1e3)


def greedy(
    graphs: CaptionerGraphs, pictures: EncodedPictures, spec: pb.CaptionerSpec, begin: Array | None = None
) -> tuple[Array, Array]:
    """Decode all pictures together to the greatest length.

    Args:
        graphs: The way.
        pictures: N, encoded.
        spec: The captioner's.
        begin: Words int64 [N] that the captions begin with, if they shall.

    Returns:
        Tokens int64 [N,T], the end token from where it came, and by how much each was ahead float32 [N,T].
    """
    state, features = pictures.state, pictures.features
    columns, margins = [], []
    if begin is not None:
        columns, margins = [begin], [np.full(len(begin), np.inf, np.float32)]
    elif pictures.first_log_probs is not None:
        best = -np.sort(-pictures.first_log_probs, axis=1)[:, :2]
        columns, margins = [pictures.first_log_probs.argmax(axis=1)], [best[:, 0] - best[:, 1]]
    tokens = columns[0] if columns else np.full(len(pictures), spec.start_id)
    while len(columns) < spec.max_tokens:
        step = graphs.step(tokens, state, features)
        state, tokens = step.state, step.top_ids[:, 0].astype(np.int64)
        if columns:
            tokens = np.where(columns[-1] == spec.end_id, spec.end_id, tokens)
        columns.append(tokens)
        margins.append(step.top_log_probs[:, 0] - step.top_log_probs[:, 1])
    return np.stack(columns, axis=1), np.stack(margins, axis=1)


def compare_words(
    model: str,
    ways: dict[str, CaptionerGraphs],
    batches: Iterator[EncodedPictures],
    spec: pb.CaptionerSpec,
    *,
    begins: bool,
) -> list[Words]:
    """Caption all pictures in every way; with `begins`, captions begin with random words."""
    rng = np.random.default_rng(0)
    found = {name: Words(model, name) for name in ways if name != "fp32"}
    for pictures in batches:
        begin = rng.integers(spec.end_id + 1, len(spec.vocabulary), len(pictures)) if begins else None
        expected, margins = greedy(ways["fp32"], pictures, spec, begin)
        for name, words in found.items():
            tokens, _ = greedy(ways[name], pictures, spec, begin)
            words.distinct = words.distinct or len(np.unique(expected, axis=0))
            differs = tokens != expected
            first = differs.argmax(axis=1)
            changed = differs.any(axis=1)
            words.pictures += len(tokens)
            words.same += int((~changed).sum())
            words.near_ties += int((changed & (margins[np.arange(len(first)), first] < _NEAR_TIE)).sum())
            words.beside_others = max(words.beside_others, _company(ways[name], pictures))
    return list(found.values())


def _company(graphs: CaptionerGraphs, pictures: EncodedPictures) -> float:
    together = [rows_of(arrays, 16) for arrays in (pictures.state, pictures.features)]
    alone = [rows_of(arrays, 1) for arrays in (pictures.state, pictures.features)]
    tokens = np.arange(16)
    beside, by_itself = (
        graphs.step(tokens[: len(state[0])], state, features, log_probs=True).log_probs
        for state, features in (together, alone)
    )
    assert beside is not None
    assert by_itself is not None
    return float(np.abs(beside[0] - by_itself[0]).max())


def random_batches(graphs: CaptionerGraphs, files: VersionFiles, count: int) -> Iterator[EncodedPictures]:
    """Encode random pictures, some at a time: the features of all are gigabytes."""
    for seed in range(-(-count // _TOGETHER)):
        yield EncodedPictures(graphs, random_pictures(files, min(_TOGETHER, count - seed * _TOGETHER), seed))


def scenes_batches(graphs: CaptionerGraphs, count: int) -> Iterator[EncodedPictures]:
    """Encode `count` random scenes in batches."""
    for seed in range(-(-count // _TOGETHER)):
        scenes: Pixels = np.stack([s.image for s in samples.scenes(seed, min(_TOGETHER, count - seed * _TOGETHER))])
        yield EncodedPictures(graphs, scenes)


def show_words(found: list[Words]) -> Table:
    """Return a table of the words that stayed the same and of those that differ."""
    table = Table(
        "model", "weights", "pictures", "distinct", "same words", "differ by a near-tie", "differ", "beside others"
    )
    for words in found:
        differing = words.pictures - words.same - words.near_ties
        shares = [f"{100 * count / words.pictures:.2f} %" for count in (words.same, words.near_ties, differing)]
        table.add_row(
            words.model, words.way, str(words.pictures), str(words.distinct), *shares, f"{words.beside_others:.1e}"
        )
    return table


def main() -> int:
    """Measure; print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=2000, help="captioned by each model in each way")
    parser.add_argument("--demo", type=Path, help="a model repository that has `scenes`")
    parser.add_argument("--json", type=Path, help="write every round's figures")
    given = parser.parse_args()
    logging.getLogger("onnxruntime").setLevel(logging.ERROR)
    logging.getLogger("root").setLevel(logging.ERROR)
    figures = Rounds("model", "rows", "ms a step")
    words: list[Words] = []
    opened = {}
    for model in _MODELS:
        files = captioner_files(model)
        ways = open_ways(files)
        opened[model] = (files, ways, EncodedPictures(ways["fp32"], random_pictures(files, 16)))
    for _ in range(given.rounds):
        for model, (_, ways, pictures) in opened.items():
            measure_steps(figures, model, ways, pictures)
    for model, (files, ways, _) in opened.items():
        batches = random_batches(ways["fp32"], files, given.pictures)
        words += compare_words(model, ways, batches, files.manifest.captioner, begins=True)
    with tempfile.TemporaryDirectory() as folder:
        repository = given.demo or Path(folder)
        if given.demo is None:
            subprocess.run([sys.executable, "-m", "resonnx_export", "demo", "--repository", folder], check=True)
        files = captioner_files("scenes", repository)
        ways = open_ways(files)
        batches = scenes_batches(ways["fp32"], given.pictures)
        words += compare_words("scenes", ways, batches, files.manifest.captioner, begins=False)
    figures.show(
        {
            (model, str(rows), name): (model, str(rows), "fp32")
            for model, (_, ways, _) in opened.items()
            for rows in _ROWS
            for name in ways
            if name != "fp32"
        }
    )
    Console(width=140).print(show_words(words))
    if given.json:
        figures.write(given.json, words=[asdict(found) for found in words])
    return 0


if __name__ == "__main__":
    sys.exit(main())
