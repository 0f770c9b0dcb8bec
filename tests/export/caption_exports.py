"""What the tests of captioner layouts share: a source's files exported by the command, and its captions compared."""

import io
import pickle
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image
from resonnx import Client
from resonnx_export.cli import app
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.decoding.greedy import decode_all
from resonnx_server.runtime.decoding.sequence import text
from resonnx_server.runtime.graphs import CaptionerGraphs
from resonnx_server.runtime.model_files.golden_examples import NEAR_TIE
from resonnx_server.runtime.model_files.manifest import DECODER_FILE, ENCODER_FILE, VersionFiles, read_version
from resonnx_server.runtime.session import CPU, Candidate, Session
from torch import Tensor
from typer.testing import CliRunner, Result

from ..conftest import StartServer

PICTURES, SIZE = 100, 64
# The server runs the same graphs by the same decoding, which have been compared for all pictures.
_SERVED = 30
YUNJEY = ("<pad>", "<start>", "<end>", "<unk>", *(f"word{i}" for i in range(26)))
UDACITY = ("<start>", "<end>", "<unk>", *(f"word{i}" for i in range(27)))
SGRVINOD = ("<pad>", *(f"word{i}" for i in range(26)), "<unk>", "<start>", "<end>")
RUOTIANLUO = ("<end>", *(f"word{i}" for i in range(28)), "UNK")


@dataclass(frozen=True)
class Written:
    """What a source writes about pictures: ids [N,T] that do not stop at the end, each step's log-probabilities."""

    ids: Tensor
    scores: Tensor

    def captions(self, end_id: int) -> list[list[int]]:
        """The ids of each caption up to and with its end."""
        rows = self.ids.tolist()
        return [row[: row.index(end_id) + 1] if end_id in row else row for row in rows]


def export(folder: Path, files: Sequence[Path], vocabulary: Path, *options: object) -> Result:
    arguments = ["captioner", *files, "--vocab", vocabulary, "--repository", folder / "models", "--name", "m", *options]
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def exported(folder: Path, files: Sequence[Path], vocabulary: Path, *options: object) -> VersionFiles:
    result = export(folder, files, vocabulary, "--size", SIZE, *options)
    assert result.exit_code == 0, result.output
    return read_version(folder / "models" / "m" / "1")


def assert_served(
    start_server: StartServer,
    folder: Path,
    images: np.ndarray,
    written: Written,
    manifest: pb.Manifest,
    rows: Sequence[int],
    **options: int,
) -> None:
    """A real server says the source's words about some picture files whose pixels are images[rows] by the recipe."""
    spec, recipe = manifest.captioner, manifest.input
    if recipe.resize == pb.ImageInput.RESIZE_SHORT_SIDE_CROP:
        # Files of the size before the crop, which takes the images out of them again.
        more = recipe.resize_short_side - recipe.width
        before = round(more / 2)
        images = np.pad(images, ((0, 0), (before, more - before), (before, more - before), (0, 0)))
    with start_server(folder / "models", "--strict") as server, Client(server.grpc) as client:
        captions = written.captions(spec.end_id)
        for row in rows[:_SERVED]:
            file = io.BytesIO()
            Image.fromarray(images[row]).save(file, "PNG")
            words = [
                spec.vocabulary[token] for token in captions[row] if token not in (*spec.stripped_ids, spec.end_id)
            ]
            assert client.caption(file.getvalue(), "m", **options).captions[0].text == " ".join(words)


def assert_same_captions(version: VersionFiles, images: np.ndarray, written: Written) -> list[int]:
    """The runtime's greedy captions are the source's, but for near-ties, which may be 1 in 100; and they vary.

    Returns the rows of those that are.
    """
    spec = version.manifest.captioner
    candidate = Candidate(CPU, pb.PRECISION_FP32)
    graphs = CaptionerGraphs(
        *(Session(version.files[file], candidate, 2) for file in (ENCODER_FILE, DECODER_FILE)), version.manifest
    )
    expected, near_ties, same = written.captions(spec.end_id), 0, []
    for row, sequence in enumerate(decode_all(graphs, images, spec)):
        ours = [token.id for token in sequence.tokens]
        if ours != expected[row]:
            step = next(i for i, pair in enumerate(zip(ours, expected[row], strict=False)) if pair[0] != pair[1])
            scores = written.scores[row, step]
            assert abs(scores[ours[step]] - scores[expected[row][step]]) < NEAR_TIE, (row, ours, expected[row])
            near_ties += 1
        else:
            words = [spec.vocabulary[token] for token in ours if token not in (*spec.stripped_ids, spec.end_id)]
            assert text(sequence.shown(), spec.vocabulary) == " ".join(words)
            same.append(row)
    assert near_ties <= 1
    lengths = {len(caption) for caption in expected}
    distinct = {tuple(caption) for caption in expected}
    # Shown by pytest -s.
    told = f"{len(images) - near_ties} of {len(images)} identical, {near_ties} near-ties, {len(distinct)} different"
    print(f"\n{version.manifest.source.layout}: {told}, lengths {sorted(lengths)}")
    assert len(distinct) >= 20
    assert len(lengths) >= 2
    return same


def write_vocabulary(path: Path, module: str, words: Sequence[str]) -> Path:
    """Pickle an object of `module`.Vocabulary, which cannot be imported afterwards."""
    with importable(module, Vocabulary=type("Vocabulary", (), {})) as classes:
        vocabulary = classes.Vocabulary()
        vocabulary.word2idx = {word: i for i, word in enumerate(words)}
        vocabulary.idx2word = dict(enumerate(words))
        vocabulary.idx = len(words)
        path.write_bytes(pickle.dumps(vocabulary))
    return path


@contextmanager
def importable(name: str, **classes: type) -> Iterator[ModuleType]:
    """Let classes be pickled as `name`'s, and nothing be found there again."""
    module = ModuleType(name)
    # Where torch looks for the source of what it pickles.
    module.__file__ = sys.modules[next(iter(classes.values())).__module__].__file__
    homes = {value: value.__module__ for value in classes.values()}
    present = sys.modules.get(name)
    for key, value in classes.items():
        value.__module__ = name
        setattr(module, key, value)
    sys.modules[name] = module
    try:
        yield module
    finally:
        del sys.modules[name]
        if present is not None:
            sys.modules[name] = present
        for value, home in homes.items():
            value.__module__ = home
