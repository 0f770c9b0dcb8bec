"""Every captioner layout, from random checkpoints in the sources' own files to captions out of the exported graphs.

What is compared with is caption_sources.py, which shares nothing with the exporter: token by token, on 100 pictures.
"""

import argparse
import io
import json
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from resonnx import Client
from resonnx_export.caption_layouts import recognise_captioner
from resonnx_export.caption_layouts.recurrent import find_cells
from resonnx_export.cli import app
from resonnx_export.errors import BadInput
from resonnx_export.networks import ShowTell
from resonnx_export.networks.pooling import adaptive_average
from resonnx_export.recipe import InputChanges, image_input
from resonnx_export.vocabulary import Vocabulary, load_vocabulary
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.golden import NEAR_TIE
from resonnx_server.runtime.graphs import CaptionerGraphs
from resonnx_server.runtime.greedy import decode_all
from resonnx_server.runtime.manifest import DECODER_FILE, ENCODER_FILE, VersionFiles, read_version
from resonnx_server.runtime.sequence import text
from resonnx_server.runtime.session import CPU, Candidate, Session
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from ..conftest import StartServer
from . import caption_sources as sources
from .caption_sources import (
    Captioner,
    Net,
    PictureEncoder,
    Sizes,
    StackedDecoder,
    WordDecoder,
    centre,
    enliven,
    normalised,
    pictures,
    settle,
)

PICTURES, SIZE = 100, 64
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
    """A real server says the source's words about those picture files whose pixels are images[rows] by the recipe."""
    spec, recipe = manifest.captioner, manifest.input
    if recipe.resize == pb.ImageInput.RESIZE_SHORT_SIDE_CROP:
        # Files of the size before the crop, which takes the images out of them again.
        more = recipe.resize_short_side - recipe.width
        before = round(more / 2)
        images = np.pad(images, ((0, 0), (before, more - before), (before, more - before), (0, 0)))
    with start_server(folder / "models", "--strict") as server, Client(server.grpc) as client:
        captions = written.captions(spec.end_id)
        for row in rows:
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


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def animate(encoder: PictureEncoder, decoder: WordDecoder | StackedDecoder, words: Sequence[str]) -> None:
    """Make random weights write varied captions."""
    images = normalised(pictures(32, SIZE, 1))
    settle(encoder, lambda: encoder(images))
    projection = encoder.get_submodule(encoder.order[0])
    assert isinstance(projection, nn.Linear)
    if len(encoder.order) == 1:
        centre(projection, encoder.resnet(images).flatten(1))
    enliven(decoder, decoder.output, lambda: decoder.sample(encoder(images)), words.index("<end>"))
    decoder.eval()


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
    module.__file__ = sources.__file__
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


@torch.no_grad()
def test_yunjey(tmp_path: Path, start_server: StartServer) -> None:
    names = ("embed", "lstm", "linear")
    rnn = nn.LSTM(24, 32, 2, batch_first=True)
    encoder, decoder = PictureEncoder(24, linear="linear", bn="bn"), WordDecoder(names, rnn, len(YUNJEY))
    animate(encoder, decoder, YUNJEY)
    files = [tmp_path / "decoder-5-3000.pkl", tmp_path / "encoder-5-3000.pkl"]
    for file, module in zip(files, (decoder, encoder), strict=True):
        # As PyTorch 0.4 wrote it, and without what it did not have.
        state = {key: value for key, value in module.state_dict().items() if "num_batches" not in key}
        torch.save(OrderedDict(state), file, _use_new_zipfile_serialization=False)
    version = exported(tmp_path, files, write_vocabulary(tmp_path / "vocab.pkl", "__main__", YUNJEY))
    manifest = version.manifest
    assert manifest.source.layout == "yunjey"
    assert manifest.input.filter == pb.ImageInput.FILTER_LANCZOS
    assert not manifest.captioner.HasField("start_id")
    assert list(manifest.captioner.stripped_ids) == [1, 0]
    assert manifest.captioner.beam_width == 1
    images = pictures(PICTURES, SIZE, 2)
    written = Written(*decoder.sample(encoder(normalised(images))))
    same = assert_same_captions(version, images, written)
    assert_served(start_server, tmp_path, images, written, manifest, same)


@pytest.mark.parametrize(
    ("bn", "names", "kind", "hidden", "layers"),
    [
        (None, ("word_embeddings", "lstm", "hidden2tag"), nn.LSTM, 24, 1),
        ("batch_layer", ("embedding", "gru", "fc"), nn.GRU, 32, 2),
        ("bn", ("embed", "rnn", "linear"), nn.RNN, 32, 1),
    ],
    ids=["lstm", "gru", "rnn"],
)
@torch.no_grad()
def test_udacity(
    tmp_path: Path,
    start_server: StartServer,
    bn: str | None,
    names: tuple[str, str, str],
    kind: type[nn.RNNBase],
    hidden: int,
    layers: int,
) -> None:
    rnn = kind(24, hidden, layers, batch_first=True)
    encoder, decoder = PictureEncoder(24, linear="embed", bn=bn), WordDecoder(names, rnn, len(UDACITY))
    animate(encoder, decoder, UDACITY)
    file = tmp_path / "both.pth"
    torch.save({"encoder": encoder.state_dict(), "decoder": decoder.state_dict(), "epoch": 3}, file)
    version = exported(tmp_path, [file], write_vocabulary(tmp_path / "vocab.pkl", "vocabulary", UDACITY))
    manifest = version.manifest
    assert manifest.source.layout == "udacity-cvnd"
    assert manifest.input.resize_short_side == SIZE * 256 // 224
    assert not manifest.captioner.HasField("pad_id")
    images = pictures(PICTURES, SIZE, 2)
    written = Written(*decoder.sample(encoder(normalised(images))))
    same = assert_same_captions(version, images, written)
    assert_served(start_server, tmp_path, images, written, manifest, same)


@pytest.mark.parametrize(
    ("name", "cell", "layers", "residual"),
    [
        ("lstm_cells", nn.LSTMCell, 3, True),
        pytest.param("rnns", nn.LSTM, 2, True, marks=pytest.mark.slow),
        pytest.param("layers", nn.GRUCell, 2, True, marks=pytest.mark.slow),
        pytest.param("rnn_cells", nn.RNNCell, 2, True, marks=pytest.mark.slow),
        ("lstm_cells", nn.LSTMCell, 2, False),
        pytest.param("cell", nn.GRUCell, 1, False, marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_cells_in_a_list(
    tmp_path: Path,
    start_server: StartServer,
    name: str,
    cell: type[nn.RNNCellBase | nn.RNNBase],
    layers: int,
    residual: bool,
) -> None:
    cells = [cell(32 if i else 24, 32) for i in range(layers)]
    encoder = PictureEncoder(24, linear="embed", bn="bn")
    decoder = StackedDecoder(name, cells, len(UDACITY), residual=residual)
    animate(encoder, decoder, UDACITY)
    file = tmp_path / "both.pth"
    torch.save({"encoder": encoder.state_dict(), "decoder": decoder.state_dict()}, file)
    vocabulary = write_vocabulary(tmp_path / "vocab.pkl", "vocabulary", UDACITY)
    result = export(tmp_path, [file], vocabulary, "--size", SIZE, *(["--residual"] if residual else []))
    assert result.exit_code == 0, result.output
    assert ("no residual connections" in result.stdout) == (layers > 1 and not residual)
    version = read_version(tmp_path / "models" / "m" / "1")
    assert version.manifest.source.layout == ("udacity-cvnd-residual" if residual else "udacity-cvnd")
    images = pictures(PICTURES, SIZE, 2)
    features = encoder(normalised(images))
    written = Written(*decoder.sample(features))
    same = assert_same_captions(version, images, written)
    assert_served(start_server, tmp_path, images, written, version.manifest, same)
    if residual:
        verified = CliRunner().invoke(app, ["verify", str(tmp_path / "models/m/1"), "--checkpoint", str(file)])
        assert verified.exit_code == 0, verified.output
        decoder.residual = False
        assert (decoder.sample(features)[0] != written.ids).any(dim=1).sum() > PICTURES / 2


def test_residual_is_for_cells_in_a_list(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("\n".join(YUNJEY))
    layered = write_tutorial(tmp_path, nn.LSTM(24, 32, 2))
    alone = tmp_path / "alone.ckpt"
    torch.save(StackedDecoder("cells", [nn.LSTMCell(24, 32)], len(YUNJEY), residual=False).state_dict(), alone)
    _, _, source, infos = self_critical(tmp_path, "show_tell", caffe=False, layers=2)
    for files, words, options in (
        (layered, tmp_path / "words.txt", ()),
        ([layered[0], alone], tmp_path / "words.txt", ()),
        (source, infos, ("--torchvision-resnet",)),
    ):
        result = export(tmp_path, files, words, "--residual", *options)
        assert result.exit_code == 2, result.output
        assert "--residual is for decoders with a list" in result.stderr.splitlines()[-1]
        assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("keys", "count", "listed"),
    [
        (["cells.0.weight_hh", "cells.1.weight_hh"], 2, True),
        (["a.rnns.0.weight_hh_l0", "a.rnns.1.weight_hh_l0"], 2, True),
        (["0.cell.weight_hh", "1.cell.weight_hh"], 2, True),
        (["lstm.weight_hh_l0", "lstm.weight_hh_l1"], 2, False),
        (["rnn.1.weight_hh_l0", "rnn.1.weight_hh_l1"], 2, False),
        (["layers.2.lstm.weight_hh_l0"], 1, False),
        (["weight_hh"], 1, False),
    ],
)
def test_cells_are_found(keys: list[str], count: int, listed: bool) -> None:
    tensors = {"embed.weight": torch.zeros(2, 3), **{key: torch.full((8, 2), i) for i, key in enumerate(keys)}}
    cells = find_cells(tensors)
    assert cells is not None
    assert {key: value[0, 0] for key, value in cells.tensors.items()} == {
        f"cells.layers.{i}.weight_hh": i for i in range(count)
    }
    assert (list(cells.rest), cells.count, cells.listed) == (["embed.weight"], count, listed)


@pytest.mark.parametrize(
    "odd",
    [
        {"cells.2.weight_hh": torch.zeros(128, 32)},
        {"cells.1.weight_hh_l0": torch.zeros(128, 32)},
        {"cells.1.weight_hh_l1": torch.zeros(128, 32)},
        {"others.0.weight_hh": torch.zeros(128, 32)},
        {"cells.01.weight_hh": torch.zeros(128, 32)},
    ],
)
def test_an_odd_list_of_cells_is_refused(tmp_path: Path, odd: dict[str, Tensor]) -> None:
    encoder, file = write_tutorial(tmp_path)
    cells = [nn.LSTMCell(24, 32), nn.LSTMCell(32, 32)]
    state = StackedDecoder("cells", cells, len(YUNJEY), residual=False).state_dict()
    torch.save(state, file)
    assert recognise_captioner([encoder, file], Vocabulary(YUNJEY)).recognised.layout == "yunjey"
    torch.save({**state, **odd}, file)
    with pytest.raises(BadInput, match=r"cells\.|others"):
        recognise_captioner([encoder, file], Vocabulary(YUNJEY))


@pytest.mark.parametrize("zipped", [False, True], ids=["legacy", "zip"])
@torch.no_grad()
def test_sgrvinod(tmp_path: Path, start_server: StartServer, zipped: bool) -> None:
    encoder, decoder = sources.Encoder(), sources.DecoderWithAttention(12, 24, 32, len(SGRVINOD), 256)
    end = SGRVINOD.index("<end>")
    shown = normalised(pictures(32, SIZE, 1))
    settle(encoder, lambda: encoder(shown))
    enliven(decoder.eval(), decoder.fc, lambda: decoder.greedy(encoder(shown), SGRVINOD.index("<start>"), 20), end)
    optimiser = torch.optim.Adam(decoder.parameters())
    file = tmp_path / "BEST_checkpoint_coco_5_cap_per_img_5_min_word_freq.pth.tar"
    content = {"epoch": 9, "bleu-4": 0.24, "encoder": encoder, "decoder": decoder, "decoder_optimizer": optimiser}
    names = ("Encoder", "DecoderWithAttention", "Attention", "Block")
    with importable("models", **{name: getattr(sources, name) for name in names}):
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
    (tmp_path / "WORDMAP.json").write_text(json.dumps({word: i for i, word in enumerate(SGRVINOD)}))
    version = exported(tmp_path, [file], tmp_path / "WORDMAP.json")
    spec = version.manifest.captioner
    assert version.manifest.source.layout == "sgrvinod"
    assert (spec.attention_rows, spec.attention_columns, spec.max_tokens) == (14, 14, 50)
    images = pictures(PICTURES, SIZE, 2)
    start = SGRVINOD.index("<start>")
    grids = encoder(normalised(images))
    assert_same_captions(version, images, Written(*decoder.greedy(grids, start)))
    # Who asks for nothing else gets what caption.py writes: its beam of five.
    assert (spec.beam_width, spec.finished_beams) == (5, pb.CaptionerSpec.FINISHED_BEAMS_SHRINK)
    if zipped:
        found = [decoder.beam_search(grid[None], start, end, spec.beam_width) for grid in grids[:40]]
        rows = [row for row, caption in enumerate(found) if caption][:20]
        assert len(rows) == 20
        ids = nn.utils.rnn.pad_sequence([torch.tensor(found[row]) for row in rows], True, end)
        greedy = Written(*decoder.greedy(grids[rows], start)).captions(end)
        assert sum(found[row] != caption for row, caption in zip(rows, greedy, strict=True)) >= 5
        assert_served(start_server, tmp_path, images[rows], Written(ids, torch.zeros(0)), version.manifest, range(20))


@torch.no_grad()
def test_our_own(tmp_path: Path, start_server: StartServer) -> None:
    net = Net(deep=True)
    decoder = sources.DecoderWithAttention(12, 24, 32, len(SGRVINOD), net.fc.in_features).eval()
    start, end = SGRVINOD.index("<start>"), SGRVINOD.index("<end>")
    shown = normalised(pictures(32, SIZE, 1))
    settle(net, lambda: net.grid(shown))

    def write(images: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        # As sgrvinod's, but for the map, which keeps its size.
        return decoder.greedy(net.grid(images).permute(0, 2, 3, 1), start, steps)

    enliven(decoder, decoder.fc, lambda: write(shown, 20), end)
    trunk = {f"trunk.{key}": value for key, value in net.state_dict().items() if not key.startswith("fc.")}
    torch.save({**trunk, **decoder.state_dict()}, tmp_path / "own.pth")
    (tmp_path / "words.txt").write_text("\n".join(SGRVINOD))
    version = exported(tmp_path, [tmp_path / "own.pth"], tmp_path / "words.txt")
    spec = version.manifest.captioner
    assert version.manifest.source.layout == "resonnx-captioner"
    assert (spec.attention_rows, spec.attention_columns, spec.beam_width) == (2, 2, 1)
    images = pictures(PICTURES, SIZE, 2)
    written = Written(*write(normalised(images), spec.max_tokens))
    same = assert_same_captions(version, images, written)
    assert_served(start_server, tmp_path, images, written, version.manifest, same)


def self_critical(
    folder: Path, kind: str, *, caffe: bool, options: dict[str, object] | None = None, **more: int | str
) -> tuple[Net, Captioner, list[Path], Path]:
    """Write model-best.pth, resnet101.pth and infos."""
    net = Net(deep=True, caffe=caffe)
    model = Captioner(kind, Sizes(len(RUOTIANLUO), net.fc.in_features), **more)
    images = normalised(pictures(32, SIZE, 1))
    settle(net, lambda: net.grid(images))
    settle(model, lambda: model.sample(net.grid(images), 2))
    if kind in ("show_tell", "fc", "newfc"):
        centre(model.fc_embed if kind == "newfc" else model.img_embed, net.grid(images).mean((2, 3)))
    enliven(model, model.logit, lambda: model.sample(net.grid(images), 12), 0)
    torch.save(model.state_dict(), folder / "model-best.pth")
    torch.save(net.state_dict(), folder / "resnet101.pth")
    told = {"caption_model": kind, "seq_length": 16, "max_length": 20, "input_att_dir": "data/cocotalk_att"}
    infos = {
        "iter": 7,
        "opt": argparse.Namespace(**{**told, **(options or {})}),
        "vocab": {str(i): word for i, word in enumerate(RUOTIANLUO) if i},
    }
    (folder / "infos_x-best.pkl").write_bytes(pickle.dumps(infos, protocol=2))
    files = [folder / "model-best.pth", folder / "resnet101.pth"]
    return net, model, files, folder / "infos_x-best.pkl"


@pytest.mark.parametrize(
    ("kind", "more", "caffe"),
    [
        ("show_tell", {"layers": 2}, True),
        pytest.param("show_tell", {"rnn": "GRU"}, False, marks=pytest.mark.slow),
        ("fc", {}, True),
        ("newfc", {}, True),
        ("att2in", {}, True),
        ("att2in2", {"use_bn": 1}, True),
        ("updown", {"use_bn": 2}, True),
        pytest.param("updown", {}, False, marks=pytest.mark.slow),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else str(value),
)
@torch.no_grad()
def test_ruotianluo(
    tmp_path: Path, start_server: StartServer, kind: str, more: dict[str, int | str], caffe: bool
) -> None:
    net, model, files, infos = self_critical(tmp_path, kind, caffe=caffe, **more)
    version = exported(tmp_path, files, infos, "--caffe-resnet" if caffe else "--torchvision-resnet")
    spec = version.manifest.captioner
    assert version.manifest.source.layout == "ruotianluo"
    assert (spec.start_id, spec.end_id, spec.pad_id, spec.unknown_id) == (0, 0, 0, len(RUOTIANLUO) - 1)
    assert spec.max_tokens == (16 if kind in ("show_tell", "fc") else 20)
    assert (spec.beam_width, spec.finished_beams) == (1, pb.CaptionerSpec.FINISHED_BEAMS_REPLACE)
    images = pictures(PICTURES, SIZE, 2)
    written = Written(*model.sample(net.grid(normalised(images)), spec.max_tokens))
    same = assert_same_captions(version, images, written)
    assert_served(start_server, tmp_path, images, written, version.manifest, same)


@pytest.mark.parametrize("kind", ["fc", "newfc", pytest.param("updown", marks=pytest.mark.slow)])
@torch.no_grad()
def test_ruotianluos_beams_may_not_say_unk(tmp_path: Path, start_server: StartServer, kind: str) -> None:
    net, model, files, infos = self_critical(tmp_path, kind, caffe=True)
    unknown = RUOTIANLUO.index("UNK")
    model.logit.bias[unknown] += 2
    torch.save(model.state_dict(), files[0])
    version = exported(tmp_path, files, infos, "--caffe-resnet")
    spec = version.manifest.captioner
    # FCModel does not know its vocabulary, so it never finds UNK.
    suppress = kind != "fc"
    assert list(spec.beam_forbidden_ids) == ([unknown] if suppress else [])
    images = pictures(20, SIZE, 2)
    grids = net.grid(normalised(images))

    def search(suppress: bool) -> list[list[int]]:
        return [model.beam_search(grid[None], 3, spec.max_tokens, suppress=suppress) for grid in grids]

    found = search(suppress)
    assert sum(unknown in caption for caption in search(False)) >= 3
    ids = nn.utils.rnn.pad_sequence([torch.tensor(caption) for caption in found], True, spec.end_id)
    assert_served(
        start_server, tmp_path, images, Written(ids, torch.zeros(0)), version.manifest, range(20), beam_width=3
    )


def test_a_vocabulary_that_does_not_end_in_unk_keeps_its_last_word(tmp_path: Path) -> None:
    _, _, files, infos = self_critical(tmp_path, "newfc", caffe=True)
    vocabulary = load_vocabulary(infos)
    words = ("<end>", "UNK", *vocabulary.words[2:-1], "last")
    source = recognise_captioner(files, Vocabulary(words, vocabulary.options), caffe_resnet=True)
    assert source.spec.unknown_id == 1
    assert not source.spec.beam_forbidden_ids


def write_tutorial(folder: Path, rnn: nn.RNNBase | None = None, *, file_of_both: bool = False) -> list[Path]:
    """Write an untrained yunjey captioner, as two files or as one state_dict with prefixes, wrapped by DataParallel."""
    encoder = PictureEncoder(24, linear="linear", bn="bn")
    decoder = WordDecoder(("embed", "lstm", "linear"), rnn or nn.LSTM(24, 32, batch_first=True), len(YUNJEY))
    halves = {"encoder": encoder.state_dict(), "decoder": decoder.state_dict()}
    if file_of_both:
        flat = {f"module.{half}.{key}": value for half, state in halves.items() for key, value in state.items()}
        torch.save(flat, folder / "both.pth")
        return [folder / "both.pth"]
    for half, state in halves.items():
        torch.save(state, folder / f"{half}.ckpt")
    return [folder / "encoder.ckpt", folder / "decoder.ckpt"]


def test_order_and_packing_do_not_matter(tmp_path: Path) -> None:
    vocabulary = Vocabulary(YUNJEY)
    torch.manual_seed(0)
    files = write_tutorial(tmp_path)
    torch.manual_seed(0)
    both = write_tutorial(tmp_path, file_of_both=True)
    found = [recognise_captioner(given, vocabulary) for given in (files, files[::-1], both)]
    for source in found:
        assert source.recognised.layout == "yunjey"
        assert isinstance(source.recognised.network, ShowTell)
        for key, value in found[0].recognised.network.state_dict().items():
            if "num_batches" not in key:
                assert torch.equal(value, source.recognised.network.state_dict()[key])
    assert found[0].files == found[1].files[::-1]


def test_what_is_missing_or_too_much_is_said(tmp_path: Path) -> None:
    encoder, decoder = write_tutorial(tmp_path)
    torch.save(Net().state_dict(), tmp_path / "net.pth")
    for files, words, said in (
        ([encoder], YUNJEY, "encoder and decoder must both be given"),
        ([decoder], YUNJEY, "encoder and decoder must both be given"),
        ([encoder, decoder, tmp_path / "net.pth"], YUNJEY, "no use for what else was given"),
        ([tmp_path / "net.pth"], YUNJEY, "is a classifier"),
        ([encoder, decoder], YUNJEY[:-1], "has 29 words, the network 30"),
        ([encoder, decoder], UDACITY[1:] + UDACITY[3:4], "lacks <start>"),
    ):
        with pytest.raises(BadInput, match=said):
            recognise_captioner(files, Vocabulary(tuple(words)))
    with pytest.raises(BadInput, match="--caffe-resnet is for ruotianluo"):
        recognise_captioner([encoder, decoder], Vocabulary(YUNJEY), caffe_resnet=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.update({"lstm.weight_hh_l0": torch.zeros(100, 32)}),
        lambda state: state.update({"lstm.weight_ih_l0_reverse": torch.zeros(128, 24)}),
        lambda state: state.update({"hidden.weight": torch.zeros(32, 24), "hidden.bias": torch.zeros(32)}),
        lambda state: state.update({"embed.weight": torch.zeros(30)}),
        lambda state: state.update({"embed.weight": torch.zeros(0, 24)}),
        lambda state: state.update({"second.weight_ih_l0": torch.zeros(128, 24)}),
        lambda state: state.pop("linear.bias"),
        lambda state: state.pop("lstm.weight_hh_l0"),
    ],
)
def test_a_decoder_of_other_shapes_is_refused(tmp_path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    encoder, decoder = write_tutorial(tmp_path)
    state = torch.load(decoder)
    change(state)
    torch.save(state, decoder)
    with pytest.raises(BadInput, match=r"encoder\.ckpt, decoder\.ckpt"):
        recognise_captioner([encoder, decoder], Vocabulary(YUNJEY))


def test_ruotianluo_refusals(tmp_path: Path) -> None:
    def refused(kind: str, said: str, *options: object, net: bool = True, **opt: object) -> None:
        _, _, files, infos = self_critical(tmp_path, kind, caffe=True, options=opt)
        result = export(tmp_path, files if net else files[:1], infos, *options)
        assert result.exit_code == 2, result.output
        assert said in result.stderr
        assert not (tmp_path / "models").exists()

    refused("updown", "holds no CNN", "--caffe-resnet", net=False)
    refused("updown", "keys do not tell whether it is Caffe's")
    refused("updown", "trained on region features (data/cocobu_att)", "--caffe-resnet", input_att_dir="data/cocobu_att")
    refused("fc", "trained on region features (data/cocobu_fc)", "--caffe-resnet", input_fc_dir="data/cocobu_fc")
    refused("att2in2", "trained on region features (use_box)", "--caffe-resnet", use_box=1)
    refused("att2in2", "features of length 1", "--caffe-resnet", norm_att_feat=1)
    _, _, files, infos = self_critical(tmp_path, "fc", caffe=True)
    torch.save(Net(deep=False).state_dict(), files[1])
    result = export(tmp_path, files, infos, "--caffe-resnet")
    assert "trained on 256 features; the ResNet given has 64" in result.stderr
    _, model, files, infos = self_critical(tmp_path, "show_tell", caffe=True)
    torch.save({**model.state_dict(), "core.weight_ih_l0_reverse": torch.zeros(128, 24)}, files[0])
    assert "unexpected: cells.weight_ih_l0_reverse" in export(tmp_path, files, infos, "--caffe-resnet").stderr
    _, _, files, infos = self_critical(tmp_path, "fc", caffe=True)
    torch.save({"logit.weight": torch.zeros(3, 4), "logit.bias": torch.zeros(3)}, files[0])
    result = export(tmp_path, files, infos, "--caffe-resnet")
    assert "caption_model (fc) is not exported" in result.stderr


def test_caffes_resnet_is_another_network(tmp_path: Path) -> None:
    _, _, files, infos = self_critical(tmp_path, "fc", caffe=True)
    networks = [
        recognise_captioner(files, load_vocabulary(infos), caffe_resnet=caffe).recognised for caffe in (True, False)
    ]
    assert networks[0].architecture == f"{networks[1].architecture}_caffe"
    image = normalised(pictures(2, SIZE, 3))
    with torch.no_grad():
        first, second = (each.network.trunk.features_map(image) for each in networks)
    assert (first - second).abs().max() > 0.01 * second.abs().max()


def test_vocabularies_are_read_and_not_run(tmp_path: Path) -> None:
    path = write_vocabulary(tmp_path / "vocab.pkl", "build_vocab", YUNJEY)
    assert load_vocabulary(path).words == YUNJEY
    path.write_bytes(pickle.dumps({"word2idx": {word: i for i, word in enumerate(UDACITY)}}))
    assert load_vocabulary(path).words == UDACITY
    path.write_bytes(pickle.dumps({"vocab": {"1": "a", "2": "UNK"}, "opt": argparse.Namespace(seq_length=9)}))
    assert load_vocabulary(path) == Vocabulary(("<end>", "a", "UNK"), {"seq_length": 9})
    for content, said in (
        ({"word2idx": {"a": 0, "b": 2}}, "0 to 1"),
        ({"word2idx": {"a": "x"}}, "must be numbers"),
        ({"vocab": {"x": "a"}}, "must be numbers"),
        ({"vocab": {"9" * 5000: "a"}}, "must be numbers"),
        (Touch(tmp_path / "touched"), "without word2idx"),
        (7, "without word2idx"),
    ):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(BadInput, match=said):
            load_vocabulary(path)
    assert not (tmp_path / "touched").exists()


class Touch:
    """Would make a file if a pickle of it were run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize(("height", "width", "side"), [(2, 2, 14), (8, 8, 14), (15, 20, 14), (14, 14, 14), (3, 5, 1)])
def test_adaptive_average(height: int, width: int, side: int) -> None:
    grid = torch.randn(2, 3, height, width)
    torch.testing.assert_close(adaptive_average(grid, side), nn.functional.adaptive_avg_pool2d(grid, side))


def test_changes_keep_what_is_not_changed() -> None:
    crop = image_input(224, resize_short_side=256)
    assert InputChanges().apply(crop) == crop
    assert InputChanges(size=56).apply(crop).resize_short_side == 64
    stretched = InputChanges(stretch=True, resize_filter="bicubic").apply(crop)
    assert (stretched.resize, stretched.filter) == (pb.ImageInput.RESIZE_STRETCH, pb.ImageInput.FILTER_BICUBIC)
    with pytest.raises(BadInput, match="exclude each other"):
        InputChanges(stretch=True, resize_short_side=300).apply(crop)
