"""Adapters of captioners: those of docs/adapters.md write what the tutorials write; wrong ones are refused and told."""

import importlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from resonnx_export.captioner import CaptionerSettings
from resonnx_export.errors import BadInput
from resonnx_export.module import export_captioner
from resonnx_export.options import Target
from resonnx_export.pictures.recipe import InputChanges, Size, image_input
from resonnx_export.proof import reference
from resonnx_export.proof.captions import tokens_of
from resonnx_export.proof.reference import normalise
from resonnx_export.user_code.captioner import as_caption_network
from resonnx_export.user_code.network import prepared
from resonnx_export.user_code.objects import load_object, make_module
from resonnx_export.user_code.opened import load_into
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.decoding.greedy import decode_all
from resonnx_server.runtime.graphs import CaptionerGraphs
from resonnx_server.runtime.model_files.manifest import VersionFiles, read_version
from resonnx_server.runtime.session import CPU, Candidate, Session
from torch import Tensor, nn

from ..layouts.caption_sources import randomness
from .conftest import run

HERE = Path(__file__).parent
SOURCES = HERE.parent / "layouts" / "caption_sources"
DOCUMENT = HERE.parents[2] / "docs" / "adapters.md"
WORDS = ("<pad>", "<start>", "<end>", "<unk>", *(f"word{i}" for i in range(26)))
SGRVINOD = ("<pad>", *(f"word{i}" for i in range(26)), "<unk>", "<start>", "<end>")
# The tutorials' modules, and their words.
TUTORIALS = {"yunjey": ("model", WORDS), "sgrvinod": ("models", SGRVINOD), "flickr8k": ("captioner", WORDS)}
SIZE = 64


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the tutorials' code and files, and the adapters of the document."""
    for path in (HERE / "tutorials").glob("*.py"):
        shutil.copy(path, tmp_path)
    shutil.copytree(SOURCES, tmp_path / SOURCES.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in re.findall(
        r"^cat > (\w+\.py) <<'EOF'\n(.*?)^EOF$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL
    ):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def pictures(count: int = 24) -> np.ndarray:
    return randomness.pictures(count, SIZE, 3)


def until_end(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids


@torch.no_grad()
def written(name: str, images: np.ndarray) -> list[list[int]]:
    """Save the tutorial's files, and return what its own code writes about pictures."""
    module, words = TUTORIALS[name]
    tutorial = importlib.import_module(module)
    tutorial.save()
    ids = tutorial.write(normalise(images, image_input(SIZE, resize_short_side=SIZE))).tolist()
    captions = [until_end(row, words.index("<end>")) for row in ids]
    assert len({tuple(caption) for caption in captions}) > len(captions) / 2, "the captions vary"
    return captions


def adapter(name: str) -> nn.Module:
    made = make_module(load_object(f"{name}_adapter.py:build"), {}, name)
    if name == "flickr8k":
        content = torch.load("attention_model_state.pth")
        load_into(made, content, name, "attention_model_state.pth")
    return prepared(made)


def graphs(version: VersionFiles) -> CaptionerGraphs:
    candidate = Candidate(CPU, pb.PRECISION_FP32)
    sessions = [Session(version.files[file], candidate, 1) for file in ("encoder.onnx", "decoder.onnx")]
    return CaptionerGraphs(*sessions, version.manifest)


@pytest.mark.parametrize("name", TUTORIALS)
def test_adapters_of_the_document_write_what_the_tutorials_write(name: str, folder: Path) -> None:
    images, words = pictures(), TUTORIALS[name][1]
    expected = written(name, images)
    network = as_caption_network(adapter(name), len(words), SIZE, SIZE)
    assert network.says_first_word == (name == "yunjey")
    spec = pb.CaptionerSpec(vocabulary=words, end_id=words.index("<end>"), max_tokens=20)
    if name != "yunjey":
        spec.start_id = words.index("<start>")
    captions = reference.caption(
        network, reference.encode(network, images, image_input(SIZE, resize_short_side=SIZE)), spec
    )
    assert [caption.tokens.tolist() for caption in captions] == expected


@pytest.mark.parametrize(
    "name", ["yunjey", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sgrvinod", "flickr8k"))]
)
def test_they_export_and_are_verified(name: str, folder: Path) -> None:
    images, words = pictures(), TUTORIALS[name][1]
    expected = written(name, images)
    (folder / "words.json").write_text(json.dumps(words))
    code: tuple[object, ...] = (f"{name}_adapter.py:build",)
    checkpoint: tuple[object, ...] = ("--checkpoint", "attention_model_state.pth") if name == "flickr8k" else ()
    tokens = np.array([[*caption, *[0] * (20 - len(caption))] for caption in expected])
    np.savez("answers.npz", pixels=images, tokens=tokens)
    options = ("--vocab", "words.json", "--max-tokens", 20, "--size", SIZE, "--no-allow-reduced")
    options += ("--expect", "answers.npz")
    done = run("module", *code, *checkpoint, *options, "--repository", "repository", "--name", name)
    assert done.exit_code == 0, done.output
    assert done.stderr.count("runs the code of") == 1
    assert "equal to your code" in done.stdout
    version = read_version(folder / "repository" / name / "1")
    assert version.manifest.verified_against == pb.REFERENCE_USER_CODE
    assert version.manifest.captioner.HasField("start_id") == (name != "yunjey")
    assert (version.manifest.captioner.attention_rows > 0) == (name != "yunjey")
    found = decode_all(graphs(version), images, version.manifest.captioner)
    assert [tokens_of(sequence).tolist() for sequence in found] == expected
    verified = run("verify", folder / "repository" / name / "1", "--module", *code, *checkpoint)
    assert verified.exit_code == 0, verified.output
    assert "equal to PyTorch's" in verified.stdout


class Small(nn.Module):
    """A right adapter of eight words."""

    def __init__(self, words: int = 8) -> None:
        super().__init__()
        self.picture, self.embedding = nn.Conv2d(3, 6, 8, 8), nn.Embedding(words, 6)
        self.cell, self.output = nn.GRUCell(6, 6), nn.Linear(6, words)

    def encode(self, images: Tensor) -> Any:
        return (self.picture(images).mean(dim=(2, 3)),), ()

    def step(self, token: Tensor, state: tuple[Tensor, ...], features: tuple[Tensor, ...]) -> Any:
        hidden = self.cell(self.embedding(token), state[0])
        return self.output(hidden), (hidden,)


def encoding(change: Callable[[Any], Any]) -> nn.Module:
    class Wrong(Small):
        def encode(self, images: Tensor) -> Any:
            return change(super().encode(images))

    return Wrong()


def stepping(change: Callable[[Any], Any]) -> nn.Module:
    class Wrong(Small):
        def step(self, token: Tensor, state: tuple[Tensor, ...], features: tuple[Tensor, ...]) -> Any:
            return change(super().step(token, state, features))

    return Wrong()


class Oblong(Small):
    """Attends to 2 x 3 positions."""

    def step(self, token: Tensor, state: tuple[Tensor, ...], features: tuple[Tensor, ...]) -> Any:
        return *super().step(token, state, features), torch.softmax(state[0], dim=1)

    def attention_grid(self, height: int, width: int) -> tuple[int, int]:
        return 2, 3


WRONG = {
    "no step": (nn.Linear(1, 1), "Linear has no encode and step"),
    "a bare state": (encoding(lambda out: (out[0][0], ())), r"encode's state is a tensor \[5,6\]; a tuple of tensors"),
    "a nested state": (encoding(lambda out: ((out[0],), ())), r"encode: state\[0\] is a tuple of 1; a tensor"),
    "no features": (encoding(lambda out: out[0]), r"encode returned a tuple of 1; \(state, features\) is needed"),
    "an empty state": (encoding(lambda out: ((), ())), "encode returned an empty state"),
    "layers first": (encoding(lambda out: ((out[0][0][None],), ())), r"state\[0\] is \[1, 5, 6\].*\.transpose\(0, 1\)"),
    "another dtype": (encoding(lambda out: ((out[0][0].double(),), ())), r"state\[0\] is float64: float32 is needed"),
    "random": (encoding(lambda out: ((out[0][0] + torch.rand(1),), ())), "not turned off by eval"),
    "first scores": (
        encoding(lambda out: (*out, out[0][0])),
        r"scores of the first word are of 6 words, the voc\w+ has 8",
    ),
    "no scores": (stepping(lambda out: (None, out[1])), "step: its scores is a NoneType"),
    "scores of a sequence": (stepping(lambda out: (out[0][:, None], out[1])), r"\[5, 1, 8\]; \[5,8\] is needed"),
    "probabilities": (stepping(lambda out: (out[0].softmax(1), out[1])), "without softmax"),
    "two states": (stepping(lambda out: (out[0], out[1] * 2)), "a state of 2 tensors, encode one of 1"),
    "another state": (stepping(lambda out: (out[0], (out[1][0][:, :3],))), r"is \[5, 3\], encode's \[5, 6\]"),
    "attention": (stepping(lambda out: (*out, out[1][0].softmax(1))), r"6 positions.*attention_grid\(height, width\)"),
    "many parts": (stepping(lambda out: (*out, 1, 2)), "step returned a tuple of 4"),
    "raises": (stepping(lambda out: out[9]), r"step, given tokens \[5\] and state \[5, 6\], raised IndexError"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_adapters_are_told(case: str) -> None:
    module, message = WRONG[case]
    with pytest.raises(BadInput, match=message) as refused:
        as_caption_network(module.eval(), 8, 32, 32)
    assert "\n" not in str(refused.value)


def test_another_vocabulary_is_told() -> None:
    with pytest.raises(BadInput, match="step's scores are of 8 words, the vocabulary has 9"):
        as_caption_network(Small(8).eval(), 9, 32, 32)


def test_attention_of_any_grid() -> None:
    network = as_caption_network(Oblong().eval(), 8, 32, 32)
    assert network.attention_grid(32, 32) == (2, 3)


@pytest.mark.slow
def test_an_adapter_in_memory(tmp_path: Path) -> None:
    torch.manual_seed(1)
    made = Small(len(WORDS)).train()
    made.output.weight.data *= 9
    before = {name: value.clone() for name, value in made.state_dict().items()}
    settings = CaptionerSettings(input=InputChanges(size=Size(32, 40)), max_tokens=6)
    exported = export_captioner(made, WORDS, Target(tmp_path, "m"), settings)
    assert exported.manifest.source.architecture == "Small"
    assert made.training
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    assert (exported.manifest.input.height, exported.manifest.input.width) == (32, 40)
    assert exported.manifest.captioner.max_tokens == 6
    assert {each.name for each in exported.manifest.assumptions} >= {"normalisation", "scale"}


def test_options_of_the_other_task_are_refused(folder: Path) -> None:
    (folder / "words.txt").write_text("\n".join(WORDS))
    common = ("module", "yunjey_adapter.py:build", "--repository", "repository", "--name", "m")
    done = run(*common, "--vocab", "words.txt", "--activation", "sigmoid")
    assert done.exit_code == 2
    assert "captioners take no --activation" in done.stderr
    done = run(*common, "--max-tokens", 9)
    assert done.exit_code == 2
    assert "without --vocab there is no --max-tokens" in done.stderr
    written("yunjey", pictures(8))
    done = run(*common)
    assert done.exit_code == 2
    assert "Adapter is a captioner's adapter: give the words of its vocabulary with --vocab FILE" in done.stderr
