"""Captioners of forks and notebooks: each step's log-probabilities are the source's own."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from resonnx_export.assumptions.assumption import OWN_MODULE
from resonnx_export.cli import app
from resonnx_export.errors import BadInput
from resonnx_export.inspection import inspect_file
from resonnx_export.layouts.captioners import CaptionSource, recognise_captioner
from resonnx_export.layouts.captioners.parts import _parts
from resonnx_export.sources.pickled_captioner import follow_pickled
from resonnx_export.special_tokens import SpecialTokens
from resonnx_export.vocabulary import Vocabulary
from resonnx_server.runtime.model_files.manifest import read_version
from torch import nn
from typer.testing import CliRunner

from ...caption_exports import SGRVINOD, SIZE, export
from ..caption_sources import sgrvinod
from ..caption_sources.randomness import normalised, pictures
from ..caption_sources.variants import (
    WORDS,
    Decoder,
    Encoder,
)
from .variants import CASES, SOS, VOCABULARY, Case, difference, randomise, taught, write

pytestmark = pytest.mark.usefixtures("torch_seeded")


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
