"""Captioners of forks and notebooks: each step's log-probabilities are the source's own, or the file is refused."""

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import torch
from resonnx_export.assumptions.assumption import OWN_MODULE
from resonnx_export.cli import app
from resonnx_export.errors import BadInput
from resonnx_export.inspection import inspect_file
from resonnx_export.layouts.captioners import CaptionSource, recognise_captioner
from resonnx_export.layouts.captioners.parts import _parts
from resonnx_export.networks.protocol import CaptionNetwork
from resonnx_export.sources.pickled_captioner import follow_pickled
from resonnx_export.special_tokens import SpecialTokens
from resonnx_export.vocabulary import Vocabulary
from resonnx_server.runtime.model_files.manifest import read_version
from torch import Tensor, nn
from typer.testing import CliRunner

from ..caption_exports import SGRVINOD, SIZE, export
from .caption_sources import sgrvinod
from .caption_sources.randomness import normalised, pictures
from .caption_sources.resnet import Net
from .caption_sources.tutorials import PictureEncoder
from .caption_sources.variants import (
    EMBEDDING,
    FEATURES,
    HIDDEN,
    WORDS,
    BahdanauDecoder,
    Decoder,
    Encoder,
    MapEncoder,
)

pytestmark = pytest.mark.usefixtures("torch_seeded")
VOCABULARY = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", *(f"word{i}" for i in range(WORDS - 4))))
SOS = Vocabulary(("<PAD>", "<SOS>", "<EOS>", "<UNK>", *VOCABULARY.words[4:]))


@dataclass(frozen=True)
class Case:
    """A source's halves, the layout that they are, and the properties to state for equal outputs."""

    encoder: Callable[[], nn.Module]
    decoder: Callable[[], nn.Module]
    layout: str
    assume: Mapping[str, str] = field(default_factory=dict)
    vocabulary: Vocabulary = VOCABULARY


_EMBED: dict[str, tuple[int, int]] = {"embed": (FEATURES, EMBEDDING)}
_CHAIN = {"fc1": (FEATURES, 20), "fc2": (20, EMBEDDING)}
_RELU = partial(Decoder, kind=partial(nn.RNN, nonlinearity="relu"))
_UNCLEAR = {"proj_h": (EMBEDDING, HIDDEN), "proj_c": (EMBEDDING, HIDDEN)}
_STATES = {"init_h": (EMBEDDING, HIDDEN), "init_c": (EMBEDDING, HIDDEN)}
_UDACITY = partial(Encoder, heads=_EMBED, bn=False)
CASES = {
    # The names of files that users report.
    "yunjey_control": Case(Encoder, Decoder, "yunjey"),
    "yunjey_2017": Case(partial(Encoder, heads={}, cut=None, own=EMBEDDING), Decoder, "yunjey"),
    "encoder_attr_backbone": Case(
        partial(Encoder, "backbone", {"fc": (FEATURES, EMBEDDING)}), Decoder, "udacity-cvnd"
    ),
    "sos_eos": Case(Encoder, Decoder, "yunjey", vocabulary=SOS),
    "lstm_three_layers": Case(Encoder, partial(Decoder, layers=3), "yunjey"),
    "gru": Case(Encoder, partial(Decoder, kind=nn.GRU), "yunjey"),
    "picture_each_step": Case(Encoder, partial(Decoder, "each"), "picture-each-step"),
    "init_state": Case(Encoder, partial(Decoder, "state", states=_STATES), "picture-state"),
    "kaggle_flickr8k_attention": Case(MapEncoder, BahdanauDecoder, "flickr8k-attention", vocabulary=SOS),
    "udacity_relu": Case(partial(_UDACITY, last=torch.relu), Decoder, "udacity-cvnd", {"encoder-activation": "relu"}),
    # The encoder.
    "tanh": Case(partial(_UDACITY, last=torch.tanh), Decoder, "udacity-cvnd", {"encoder-activation": "tanh"}),
    "whole": Case(partial(Encoder, "cnn", {}, cut=None, own=EMBEDDING, bn=False), Decoder, "udacity-cvnd"),
    "whole, all classes": Case(
        partial(Encoder, "net", {"out": (10, EMBEDDING)}, cut=None, own=10, bn=False), Decoder, "udacity-cvnd"
    ),
    "whole, classes unused": Case(partial(Encoder, "resnet", cut=None, own=None), Decoder, "yunjey"),
    "layers": Case(partial(Encoder, "cnn", _CHAIN, between=torch.relu), Decoder, "udacity-cvnd"),
    "layers without activation": Case(
        partial(Encoder, "cnn", _CHAIN), Decoder, "udacity-cvnd", {"head-activation": "none"}
    ),
    # The cells.
    "rnn": Case(_UDACITY, partial(Decoder, kind=nn.RNN, names=("word_embeddings", "rnn", "fc_out")), "udacity-cvnd"),
    "rnn with relu": Case(_UDACITY, _RELU, "udacity-cvnd", {"rnn-activation": "relu"}),
    "output named logit": Case(Encoder, partial(Decoder, names=("embedding", "lstm", "logit")), "yunjey"),
    "output without bias": Case(Encoder, partial(Decoder, bias=False), "yunjey"),
    # Where the picture enters.
    "word of the picture dropped": Case(Encoder, partial(Decoder, "silent"), "yunjey", {"picture-output": "dropped"}),
    "picture before each word": Case(
        Encoder, partial(Decoder, "before"), "picture-each-step", {"cell-input": "picture-word"}
    ),
    "features at each step": Case(
        partial(Encoder, heads={}, bn=False), partial(Decoder, "each", picture=FEATURES), "picture-each-step"
    ),
    "state and first input": Case(
        Encoder, partial(Decoder, "silent", states=_STATES), "picture-state", {"picture-first": "yes"}
    ),
    "state and each step": Case(Encoder, partial(Decoder, "each", states=_STATES), "picture-each-step"),
    "state of features": Case(
        partial(Encoder, heads={}, bn=False),
        partial(Decoder, "state", nn.GRU, states={"init_hidden": (FEATURES, HIDDEN)}),
        "picture-state",
    ),
    "state through tanh": Case(
        _UDACITY, partial(Decoder, "state", states=_STATES, started=torch.tanh), "picture-state",
        {"state-activation": "tanh"},
    ),
    "state of each layer": Case(
        _UDACITY,
        partial(Decoder, "state", layers=2, states={"h0": (EMBEDDING, 2 * HIDDEN), "c0": (EMBEDDING, 2 * HIDDEN)}),
        "picture-state",
    ),
    "state of all layers": Case(
        _UDACITY, partial(Decoder, "state", layers=2, states=_UNCLEAR), "picture-state"
    ),
    "hidden state alone": Case(
        _UDACITY, partial(Decoder, "state", states={"init_h": (EMBEDDING, HIDDEN)}), "picture-state"
    ),
    # Attention.
    "attention with gate": Case(
        MapEncoder, partial(BahdanauDecoder, gated=True), "flickr8k-attention", {"attention-gate": "sigmoid"}
    ),
    "attention with relu": Case(
        MapEncoder, partial(BahdanauDecoder, torch.relu, bias=False), "flickr8k-attention",
        {"attention-activation": "relu"},
    ),
    "attention, picture before word": Case(
        MapEncoder, partial(BahdanauDecoder, before=True), "flickr8k-attention", {"cell-input": "picture-word"}
    ),
}  # fmt: skip


def randomise(module: nn.Module) -> nn.Module:
    """Give a network weights with which its properties matter, in eval mode."""
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif value.dim() == 1 and value.is_floating_point():
                value.normal_(1.0 if "bn" in name and name.endswith("weight") else 0.0, 0.1)
            elif value.dim() > 1:
                value.normal_(0, (2.5 / value[0].numel()) ** 0.5)
    return module.eval().requires_grad_(False)


def write(folder: Path, case: Case) -> tuple[nn.Module, nn.Module, list[Path]]:
    encoder, decoder = randomise(case.encoder()), randomise(case.decoder())
    torch.save(encoder.state_dict(), folder / "e.pkl")
    torch.save(decoder.state_dict(), folder / "d.pkl")
    return encoder, decoder, [folder / "e.pkl", folder / "d.pkl"]


def taught(source: CaptionSource, images: Tensor, words: Tensor) -> Tensor:
    """Score words as the source's `teach`."""
    network = source.recognised.network
    assert isinstance(network, CaptionNetwork)
    encoded = network.encode(images)
    assert (encoded.first_log_probs is None) == source.spec.HasField("start_id")
    scores = [] if encoded.first_log_probs is None else [encoded.first_log_probs]
    state = encoded.state
    for word in words.T:
        stepped = network.step(word, state, encoded.features)
        state = stepped.state
        scores.append(stepped.log_probs)
    return torch.stack(scores, 1)


def difference(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@torch.no_grad()
def test_each_step_is_the_sources(case: Case, tmp_path: Path) -> None:
    encoder, decoder, files = write(tmp_path, case)
    source = recognise_captioner(files, case.vocabulary, assume=case.assume)
    assert source.recognised.layout == case.layout
    images, words = normalised(pictures(3, SIZE, 1)), torch.randint(WORDS, (3, 6))
    theirs = decoder.teach(encoder(images), words)
    assert difference(taught(source, images, words), theirs) < 1e-4
    listed = {each.name: each for each in source.recognised.assumptions}
    assert {name: listed[name].value for name in case.assume} == case.assume
    assert {name for name, each in listed.items() if each.confirmed} == case.assume.keys()
    if case.assume:
        other = recognise_captioner(files, case.vocabulary)
        ours = {each.name: each.value for each in other.recognised.assumptions}
        assert ours.keys() >= case.assume.keys()
        if source.spec.HasField("start_id") == other.spec.HasField("start_id"):
            assert difference(taught(other, images, words), theirs) > 0.01


@torch.no_grad()
def test_the_resnets_properties(tmp_path: Path) -> None:
    """The encoder's ResNet has the properties of classifiers."""
    encoder, decoder, files = write(tmp_path, CASES["yunjey_control"])
    for layer in encoder.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 0.1
    images, words = normalised(pictures(3, SIZE, 1)), torch.randint(WORDS, (3, 6))
    theirs = decoder.teach(encoder(images), words)
    plain = recognise_captioner(files, VOCABULARY)
    assert {"activation", "bn-eps", "pool", "strides", "dilation", "global-pool"} <= {
        each.name for each in plain.recognised.assumptions
    }
    assert all(each.option in (f"--assume {each.name}=VALUE", OWN_MODULE) for each in plain.recognised.assumptions)
    source = recognise_captioner(files, VOCABULARY, assume={"bn-eps": "0.1"})
    assert difference(taught(source, images, words), theirs) < 1e-4
    assert difference(taught(plain, images, words), theirs) > 0.01
    with pytest.raises(BadInput, match=r"has no property 'gate'; --assume takes activation, .*bn-eps"):
        recognise_captioner(files, VOCABULARY, assume={"gate": "sigmoid"})


@torch.no_grad()
def test_sgrvinod_state_dicts(tmp_path: Path) -> None:
    """State_dicts do not record the side of the map, which pickled modules do."""
    encoder = randomise(sgrvinod.Encoder(7))
    decoder = randomise(sgrvinod.DecoderWithAttention(12, 24, 32, len(SGRVINOD), 256))
    weights = {"encoder_state_dict": encoder.state_dict(), "decoder_state_dict": decoder.state_dict()}
    torch.save({"epoch": 3, **weights}, tmp_path / "m.pth")
    source = recognise_captioner([tmp_path / "m.pth"], Vocabulary(SGRVINOD), assume={"attention-map": "7"})
    listed = {each.name: (each.value, each.confirmed) for each in source.recognised.assumptions}
    assert listed["attention-map"] == ("7", True)
    assert listed["attention-activation"] == ("relu", False)
    images, start = normalised(pictures(3, SIZE, 1)), SGRVINOD.index("<start>")
    ids, scores = decoder.greedy(encoder(images), start, 6)
    words = torch.cat([torch.full((3, 1), start), ids[:, :-1]], 1)
    assert difference(taught(source, images, words), scores) < 1e-4


@torch.no_grad()
def test_pickled_modules_tell_their_layers(tmp_path: Path) -> None:
    """What a pickled module has is followed and not assumed; what cannot be followed is refused."""
    encoder = randomise(sgrvinod.Encoder(7))
    # As in forks: the pool tells the side, too.
    del encoder.enc_image_size
    decoder = randomise(sgrvinod.DecoderWithAttention(12, 24, 32, len(SGRVINOD), 256))
    decoder.attention.relu = nn.Tanh()
    for layer in encoder.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 0.1
    file, start = tmp_path / "m.pth.tar", SGRVINOD.index("<start>")
    torch.save({"encoder": encoder, "decoder": decoder}, file)
    source = recognise_captioner([file], Vocabulary(SGRVINOD))
    images = normalised(pictures(3, SIZE, 1))
    ids, scores = decoder.greedy(encoder(images), start, 6)
    words = torch.cat([torch.full((3, 1), start), ids[:, :-1]], 1)
    assert difference(taught(source, images, words), scores) < 1e-4
    listed = {each.name: (each.value, each.confirmed) for each in source.recognised.assumptions}
    assert listed["attention-activation"] == ("tanh", True)
    assert listed["attention-map"] == ("7", True)
    assert listed["bn-eps"] == ("0.1", True)
    with pytest.raises(BadInput, match=r"attention-activation=relu contradicts the file, which has tanh; leave it out"):
        recognise_captioner([file], Vocabulary(SGRVINOD), assume={"attention-activation": "relu"})
    with pytest.raises(BadInput, match=r"bn-eps=0.2 contradicts the file, which has 0.1"):
        recognise_captioner([file], Vocabulary(SGRVINOD), assume={"bn-eps": "0.2"})
    last = encoder.resnet[7][0]
    last.conv2.stride = last.downsample[0].stride = (1, 1)
    torch.save({"encoder": encoder, "decoder": decoder}, file)

    def recognise(values: Mapping[str, str]) -> CaptionSource:
        return recognise_captioner([file], Vocabulary(SGRVINOD), assume=values)

    source, assume = follow_pickled({}, recognise)
    assert assume == {"strides": "1-2-2-1"}
    listed = {each.name: (each.value, each.confirmed) for each in source.recognised.assumptions}
    assert listed["strides"] == ("1-2-2-1", True)
    ids, scores = decoder.greedy(encoder(images), start, 6)
    words = torch.cat([torch.full((3, 1), start), ids[:, :-1]], 1)
    assert difference(taught(source, images, words), scores) < 1e-4
    assert ("assumption", str(next(each for each in source.recognised.assumptions if each.name == "strides"))) in (
        list(inspect_file(file))
    )
    with pytest.raises(BadInput, match=r"strides=1-2-2-2 contradicts the file, whose .* has 1-2-2-1; leave it out"):
        follow_pickled({"strides": "1-2-2-2"}, recognise)
    last.conv2.padding_mode = "reflect"
    torch.save({"encoder": encoder, "decoder": decoder}, file)
    with pytest.raises(BadInput, match=r"7\.0\.conv2 pads with reflect, not zeros.*resonnx-export module TARGET"):
        follow_pickled({}, recognise)


@pytest.mark.parametrize("attribute", ["eps", "out_features"])
def test_attributes_of_another_kind_end_in_one_line(attribute: str, tmp_path: Path) -> None:
    encoder = randomise(sgrvinod.Encoder(7))
    decoder = randomise(sgrvinod.DecoderWithAttention(12, 24, 32, len(SGRVINOD), 256))
    for layer in (*encoder.modules(), *decoder.modules()):
        if attribute in vars(layer):
            vars(layer)[attribute] = torch.ones(3)
    file = tmp_path / "m.pth.tar"
    torch.save({"encoder": encoder, "decoder": decoder}, file)

    def recognise(values: Mapping[str, str]) -> CaptionSource:
        return recognise_captioner([file], Vocabulary(SGRVINOD), assume=values)

    if attribute == "eps":
        with pytest.raises(BadInput, match="eps of the type Tensor, which is no number"):
            follow_pickled({}, recognise)
    else:
        assert follow_pickled({}, recognise)[0].recognised.layout == "sgrvinod"


@pytest.mark.parametrize(
    ("names", "file", "reason"),
    [
        (("linear", None), "m.pth", "its layers are called resnet and linear"),
        (("embed", None), "m.pth", "its last layer is called embed"),
        (("fc2", None), "encoder-5.pkl", "its file is called so"),
        (("linear", "bn"), "m.pth", "BatchNorm follows its last linear layer"),
        (("fc2", None), "m.pth", None),
    ],
)
def test_inspect_tells_an_encoder_from_a_classifier(
    names: tuple[str, str | None], file: str, reason: str | None, tmp_path: Path
) -> None:
    torch.save(PictureEncoder(24, linear=names[0], bn=names[1]).state_dict(), tmp_path / file)
    lines = dict(inspect_file(tmp_path / file))
    classifier = f"resonnx-export classifier {tmp_path / file} --labels LABELS --repository models --name NAME"
    if reason is None:
        assert (lines["outputs"], lines["next"]) == ("24 classes", classifier)
        return
    assert lines["layout"] == f"the encoder of a captioner, it seems ({reason}); its decoder is in another file"
    assert lines["next"].startswith(f"resonnx-export captioner {tmp_path / file} DECODER --vocab VOCABULARY ")
    assert lines["or"] == f"if it is a classifier of 24 classes: {classifier}"


class _Lightning(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.encoder, self.model.decoder = Encoder(), Decoder()
        self.criterion = nn.CrossEntropyLoss(weight=torch.ones(WORDS))


@torch.no_grad()
def test_containers(tmp_path: Path) -> None:
    """Lightning's and training loops' files, with the vocabulary in them; what is no weight is left out and told."""
    module = randomise(_Lightning())
    file = tmp_path / "m.ckpt"
    best = {"ModelCheckpoint": {"best_model_score": torch.tensor(1.0)}}
    torch.save({"state_dict": module.state_dict(), "callbacks": best, "optimizer_states": []}, file)
    source = recognise_captioner([file], VOCABULARY)
    images, words = normalised(pictures(3, SIZE, 1)), torch.randint(WORDS, (3, 6))
    theirs = module.model.decoder.teach(module.model.encoder(images), words)
    assert difference(taught(source, images, words), theirs) < 1e-4
    assert source.recognised.notes == ("left out, as no weights of the network: criterion.weight",)
    halves = {"encoder": module.model.encoder.state_dict(), "decoder": module.model.decoder.state_dict()}
    torch.save({**halves, "vocab": dict(enumerate(VOCABULARY.words)), "epoch": 3}, file)
    source = recognise_captioner([file])
    assert difference(taught(source, images, words), theirs) < 1e-4
    assert source.spec.vocabulary == list(VOCABULARY.words)
    assert source.recognised.notes == (f"the vocabulary is the checkpoint's, {WORDS} words",)
    torch.save({**halves, "epoch": 3}, file)
    with pytest.raises(BadInput, match="the checkpoint has no vocabulary: give --vocab FILE"):
        recognise_captioner([file])


@pytest.mark.slow
@torch.no_grad()
def test_a_notebooks_captioner_is_exported_and_verified(tmp_path: Path) -> None:
    """Properties stated with --assume are in the manifest, from which `verify` builds the same network."""
    encoder, decoder, _ = write(tmp_path, CASES["attention with gate"])
    halves = {"encoder": encoder.state_dict(), "decoder": decoder.state_dict()}
    flat = {f"{half}.{key}": value for half, state in halves.items() for key, value in state.items()}
    file, words = tmp_path / "attention_model_state.pth", tmp_path / "words.txt"
    torch.save({"num_epochs": 25, "vocab_size": WORDS, "state_dict": flat}, file)
    words.write_text("\n".join(SOS.words))
    stated = ("--assume", "attention-gate=sigmoid", "--assume", "activation=silu")
    result = export(tmp_path, [file], words, "--size", SIZE, *stated)
    assert result.exit_code == 0, result.output
    assert "given: attention-gate sigmoid; --assume attention-gate=VALUE (or none)" in result.stdout
    assert "assumed: attention-activation tanh; --assume attention-activation=VALUE (or relu)" in result.stdout
    spec = read_version(tmp_path / "models/m/1").manifest.captioner
    assert (spec.start_id, spec.end_id, list(spec.stripped_ids), spec.max_tokens) == (1, 2, [1, 0], 20)
    assert (spec.attention_rows, spec.attention_columns) == (2, 2)
    verified = CliRunner().invoke(app, ["verify", str(tmp_path / "models/m/1"), "--checkpoint", str(file)])
    assert verified.exit_code == 0, verified.output


def _inception() -> nn.Module:
    encoder = nn.Module()
    encoder.inception = nn.Module()
    encoder.inception.Conv2d_1a_3x3 = nn.Conv2d(3, 8, 3)
    encoder.inception.fc = nn.Linear(8, EMBEDDING)
    return encoder


class _Video(nn.Module):
    """HHTseng/video-classification's decoder: it scores classes."""

    def __init__(self) -> None:
        super().__init__()
        self.LSTM, self.fc1, self.fc2 = nn.LSTM(EMBEDDING, HIDDEN, 3), nn.Linear(HIDDEN, 9), nn.Linear(9, 5)


_THREE = {"fc1": (FEATURES, 32), "fc2": (32, 32), "fc3": (32, EMBEDDING)}
_BESIDE = {"linear": (FEATURES, EMBEDDING), "other": (FEATURES, 6)}
REFUSED = {
    "aladdin_inception": (_inception, Decoder, {}, "the encoder is Inception v3; only captioners with a ResNet"),
    "hhtseng_video": (partial(Encoder, heads=_THREE), _Video, {}, "this is a video classifier"),
    "a layer beside": (partial(Encoder, heads=_BESIDE), Decoder, {}, "more than one linear layer reads the picture"),
    "a width of none": (Encoder, partial(Decoder, "each", picture=6), {}, "read neither the word alone nor both"),
    "states that differ": (
        Encoder,
        partial(Decoder, "state", layers=2, states={"init_h": (EMBEDDING, HIDDEN), "init_c": (EMBEDDING, 2 * HIDDEN)}),
        {},
        "the layers of the first state differ",
    ),
    "an unknown layer": (
        Encoder, partial(Decoder, states={"mystery": (6, 5)}), {}, r"known captioner has: mystery \[\[5, 6\], \[5\]\]"
    ),
    "an unknown property": (
        _UDACITY, Decoder, {"colour": "red"},
        "layout udacity-cvnd has no property 'colour'; --assume takes encoder-activation, picture-output, activation",
    ),
    "a property of others": (Encoder, Decoder, {"attention-gate": "none"}, "yunjey has no property 'attention-gate'"),
    "an unknown value": (
        Encoder, Decoder, {"encoder-activation": "x"}, "--assume encoder-activation takes none, relu, .*, not 'x'"
    ),
    "a pool of an attention": (
        MapEncoder, BahdanauDecoder, {"global-pool": "max"}, "layout flickr8k-attention has no property 'global-pool'"
    ),
    "an unknown side": (
        MapEncoder, BahdanauDecoder, {"attention-map": "65"}, "takes 14, none, 7, 8, a number up to 64, not '65'"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("encoder", "decoder", "assume", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(
    encoder: Callable[[], nn.Module],
    decoder: Callable[[], nn.Module],
    assume: Mapping[str, str],
    said: str,
    tmp_path: Path,
) -> None:
    torch.save(encoder().state_dict(), tmp_path / "e.pkl")
    torch.save(decoder().state_dict(), tmp_path / "d.pkl")
    with pytest.raises(BadInput, match=said):
        recognise_captioner([tmp_path / "e.pkl", tmp_path / "d.pkl"], VOCABULARY, assume=assume)


def test_inspect_describes_whole_captioners_and_halves(tmp_path: Path) -> None:
    encoder, decoder, files = write(tmp_path, CASES["sos_eos"])
    both = tmp_path / "both.pth"
    torch.save({"encoder": encoder.state_dict(), "decoder": decoder.state_dict(), "vocab": list(SOS.words)}, both)
    lines = list(inspect_file(both))
    assert dict(lines)["layout"] == "yunjey"
    assert dict(lines)["next"] == f"resonnx-export captioner {both} --repository models --name NAME"
    assert ("assumption", str(recognise_captioner([both]).recognised.assumptions[0])) in lines
    half = dict(inspect_file(files[1]))
    assert half["outputs"] == f"captions of {WORDS} words"
    assert half["next"].startswith(f"resonnx-export captioner {files[1]} ENCODER --vocab VOCABULARY")
    torch.save(_Video().state_dict(), both)
    assert "video classifier" in dict(inspect_file(both))["layout"]


def test_hugging_faces_encoder(tmp_path: Path) -> None:
    """Names of other projects' ResNets are known in captioners too."""
    encoder, _, files = write(tmp_path, CASES["yunjey_control"])
    plain = recognise_captioner(files, VOCABULARY).recognised.network.state_dict()
    parts = {"0": "embedder.embedder.convolution", "1": "embedder.embedder.normalization"}
    blocks = {"conv1": "layer.0.convolution", "bn1": "layer.0.normalization", "conv2": "layer.1.convolution"}
    blocks |= {"bn2": "layer.1.normalization", "downsample.0": "shortcut.convolution"}
    blocks |= {"downsample.1": "shortcut.normalization"}

    def renamed(key: str) -> str:
        if (stem := re.fullmatch(r"resnet\.([01])\.(\w+)", key)) is not None:
            return f"backbone.{parts[stem[1]]}.{stem[2]}"
        if (block := re.fullmatch(r"resnet\.(\d)\.(\d)\.(.+)\.(\w+)", key)) is not None:
            stage, number, module, leaf = block.groups()
            return f"backbone.encoder.stages.{int(stage) - 4}.layers.{number}.{blocks[module]}.{leaf}"
        return key

    torch.save({renamed(key): value for key, value in encoder.state_dict().items()}, files[0])
    network = recognise_captioner(files, VOCABULARY).recognised.network.state_dict()
    assert plain.keys() == network.keys()
    assert all(torch.equal(value, network[key]) for key, value in plain.items())


def _damaged(state: dict[str, Tensor], rng: random.Random) -> dict[str, Tensor]:
    """Return a state_dict with one key missing, renamed or doubled, or one tensor of another shape."""
    key, damaged = rng.choice(list(state)), dict(state)
    value = damaged.pop(key)
    others = {
        "missing": {},
        "renamed": {rng.choice(["x", "4.0.conv1.weight", "init_h.weight", "a.b.c", ""]): value},
        "doubled": {key: value, f"{key.rpartition('.')[0]}2.weight": value},
        "scalar": {key: torch.zeros(())},
        "wider": {key: torch.zeros([rng.choice([0, 1, size + 1, 2 * size]) for size in value.shape])},
        "deeper": {key: value[None]},
    }
    return damaged | rng.choice(list(others.values()))


@pytest.mark.parametrize("count", [12, pytest.param(600, marks=pytest.mark.slow)])
def test_damaged_captioners_end_in_one_line(count: int, tmp_path: Path) -> None:
    rng, said = random.Random(count), list[str]()
    cases = [(case.encoder().state_dict(), case.decoder().state_dict(), case.vocabulary) for case in CASES.values()]
    files = [tmp_path / "e.pkl", tmp_path / "d.pkl"]
    for _ in range(count):
        *halves, vocabulary = rng.choice(cases)
        number = rng.randrange(2)
        for index, (file, half) in enumerate(zip(files, halves, strict=True)):
            torch.save(_damaged(half, rng) if index == number else half, file)
        try:
            recognise_captioner(files, vocabulary)
        except BadInput as error:
            said.append(str(error))
    assert len(said) > count / 2
    assert not any("\n" in message or len(message) > 1500 for message in said)


def test_a_classifier_is_no_captioner(tmp_path: Path) -> None:
    torch.save(Net().state_dict(), tmp_path / "net.pth")
    with pytest.raises(BadInput, match="the checkpoint is a classifier"):
        recognise_captioner([tmp_path / "net.pth"], VOCABULARY)


def test_tokens_of_other_names(tmp_path: Path) -> None:
    words = Vocabulary(("begin", "finish", *VOCABULARY.words[2:]))
    *_, files = write(tmp_path, CASES["yunjey_control"])
    with pytest.raises(BadInput, match="--start-token WORD"):
        recognise_captioner(files, words)
    source = recognise_captioner(files, words, tokens=SpecialTokens("begin", "finish"))
    assert (list(source.spec.stripped_ids), source.spec.end_id) == ([0], 1)


def test_containers_that_a_file_holds_many_times_are_read_once() -> None:
    tree: dict[str, object] = {"decoder.weight": torch.ones(2)}
    for _ in range(3):
        tree = {f"a{number}": tree for number in range(1000)}
    assert len(list(_parts(tree, 3, set()))) == 1
