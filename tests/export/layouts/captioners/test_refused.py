"""Captioners that are refused, damaged or no captioners, and what is told of them."""

import random
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from resonnx_export.errors import BadInput
from resonnx_export.inspection import inspect_file
from resonnx_export.layouts.captioners import CaptionSource, recognise_captioner
from resonnx_export.sources.pickled_captioner import follow_pickled
from resonnx_export.vocabulary import Vocabulary
from torch import Tensor, nn

from ...caption_exports import SGRVINOD
from ..caption_sources import sgrvinod
from ..caption_sources.resnet import Net
from ..caption_sources.tutorials import PictureEncoder
from ..caption_sources.variants import (
    EMBEDDING,
    FEATURES,
    HIDDEN,
    WORDS,
    BahdanauDecoder,
    Decoder,
    Encoder,
    MapEncoder,
)
from .variants import CASES, SOS, UDACITY, VOCABULARY, randomise, write

pytestmark = pytest.mark.usefixtures("torch_seeded")


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
        UDACITY, Decoder, {"colour": "red"},
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
    video = dict(inspect_file(both))
    assert video["layout"] == "video-features"
    assert video["next"].startswith(f"resonnx-export video-classifier {both} --labels LABELS ")


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
