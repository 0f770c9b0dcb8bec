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
    start_server: StartServer, folder: Path, images: np.ndarray, written: Written, spec: pb.CaptionerSpec
) -> None:
    """A real server says the source's words about picture files."""
    with start_server(folder / "models", "--strict") as server, Client(server.grpc) as client:
        for image, caption in zip(images, written.captions(spec.end_id), strict=False):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            words = [spec.vocabulary[token] for token in caption if token not in (*spec.stripped_ids, spec.end_id)]
            assert client.caption(file.getvalue(), "m").captions[0].text == " ".join(words)


def assert_same_captions(version: VersionFiles, images: np.ndarray, written: Written) -> None:
    """The runtime's greedy captions are the source's, but for near-ties, which may be 1 in 100; and they vary."""
    spec = version.manifest.captioner
    candidate = Candidate(CPU, pb.PRECISION_FP32)
    graphs = CaptionerGraphs(
        *(Session(version.files[file], candidate, 2) for file in (ENCODER_FILE, DECODER_FILE)), version.manifest
    )
    expected, near_ties = written.captions(spec.end_id), 0
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
    assert near_ties <= 1
    lengths = {len(caption) for caption in expected}
    distinct = {tuple(caption) for caption in expected}
    # Shown by pytest -s.
    told = f"{len(images) - near_ties} of {len(images)} identical, {near_ties} near-ties, {len(distinct)} different"
    print(f"\n{version.manifest.source.layout}: {told}, lengths {sorted(lengths)}")
    assert len(distinct) >= 20
    assert len(lengths) >= 2


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def tutorial(
    linear: str, bn: str | None, names: tuple[str, str, str], rnn: nn.RNNBase, words: Sequence[str]
) -> tuple[PictureEncoder, WordDecoder]:
    encoder, decoder = PictureEncoder(rnn.input_size, linear=linear, bn=bn), WordDecoder(names, rnn, len(words))
    images = normalised(pictures(32, SIZE, 1))
    settle(encoder, lambda: encoder(images))
    output = decoder.get_submodule(names[2])
    assert isinstance(output, nn.Linear)
    projection = encoder.get_submodule(linear)
    assert isinstance(projection, nn.Linear)
    if bn is None:
        centre(projection, encoder.resnet(images).flatten(1))
    enliven(decoder, output, lambda: decoder.sample(encoder(images)), words.index("<end>"))
    return encoder, decoder.eval()


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
    encoder, decoder = tutorial("linear", "bn", names, nn.LSTM(24, 32, 2, batch_first=True), YUNJEY)
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
    assert_same_captions(version, images, written)
    assert_served(start_server, tmp_path, images[:20], written, manifest.captioner)


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
    tmp_path: Path, bn: str | None, names: tuple[str, str, str], kind: type[nn.RNNBase], hidden: int, layers: int
) -> None:
    encoder, decoder = tutorial("embed", bn, names, kind(24, hidden, layers, batch_first=True), UDACITY)
    file = tmp_path / "both.pth"
    torch.save({"encoder": encoder.state_dict(), "decoder": decoder.state_dict(), "epoch": 3}, file)
    version = exported(tmp_path, [file], write_vocabulary(tmp_path / "vocab.pkl", "vocabulary", UDACITY))
    manifest = version.manifest
    assert manifest.source.layout == "udacity-cvnd"
    assert manifest.input.resize_short_side == SIZE * 256 // 224
    assert not manifest.captioner.HasField("pad_id")
    images = pictures(PICTURES, SIZE, 2)
    assert_same_captions(version, images, Written(*decoder.sample(encoder(normalised(images)))))


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
        assert_served(start_server, tmp_path, images[rows], Written(ids, torch.zeros(0)), spec)


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
        ("show_tell", {"rnn": "GRU"}, False),
        ("fc", {}, True),
        ("newfc", {}, True),
        ("att2in", {}, True),
        ("att2in2", {"use_bn": 1}, True),
        ("updown", {"use_bn": 2}, True),
        ("updown", {}, False),
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
    assert_same_captions(version, images, written)
    if kind == "updown" and caffe:
        assert_served(start_server, tmp_path, images[:20], written, spec)


def write_tutorial(folder: Path, *, file_of_both: bool = False) -> list[Path]:
    """Write an untrained yunjey captioner, as two files or as one state_dict with prefixes, wrapped by DataParallel."""
    encoder = PictureEncoder(24, linear="linear", bn="bn")
    decoder = WordDecoder(("embed", "lstm", "linear"), nn.LSTM(24, 32, batch_first=True), len(YUNJEY))
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
