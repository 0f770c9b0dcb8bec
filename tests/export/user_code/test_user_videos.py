"""Video classifiers of a user's own class: exported by an adapter, compared with it, and refused with reasons."""

from pathlib import Path

import numpy as np
import pytest
import torch
from resonnx_export.cli import app
from resonnx_export.errors import BadInput
from resonnx_export.pictures.recipe import image_input
from resonnx_export.proof.reference import normalise
from resonnx_export.user_code.video import as_video_network
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.manifest import onnx_files, read_version
from torch import nn
from typer.testing import CliRunner

from . import video_adapters
from .video_adapters import CLASSES, Adapter

TARGET = Path(video_adapters.__file__)


def run(*arguments: object) -> "tuple[int, str]":
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.output


def test_an_adapter_is_exported_and_compared_with_answers(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("".join(f"move {i}\n" for i in range(CLASSES)))
    frames = np.random.default_rng(0).integers(0, 256, (3, 5, 32, 32, 3), np.uint8)
    lengths, adapter = np.array([5, 1, 3]), Adapter().eval()
    with torch.no_grad():
        recipe = image_input(32, resize_short_side=None)
        features = torch.stack([adapter.encode(normalise(clip, recipe)) for clip in frames])
        logits = adapter.classify(features, torch.from_numpy(lengths)).numpy()
    np.savez(tmp_path / "answers.npz", frames=frames, lengths=lengths, logits=logits)
    code = ("module", f"{TARGET}:Adapter", "--size", 32, "--stretch", "--labels", tmp_path / "labels.txt")
    where = ("--repository", tmp_path / "models", "--name", "m")
    status, said = run(*code, *where)
    assert status == 2
    assert "video classifier's adapter: give --frames RULE" in said
    status, said = run(*code, *where, "--frames", "every:2", "--expect", tmp_path / "answers.npz")
    assert status == 0, said
    assert "your answers: 3 clips" in said
    version = read_version(tmp_path / "models" / "m" / "1")
    assert version.manifest.verified_against == pb.REFERENCE_USER_CODE
    assert onnx_files(version.manifest) == ("encoder.onnx", "sequence.onnx", "step.onnx")
    assert [list(state.shape) for state in version.manifest.video_classifier.states] == [[5], [5], [1]]
    status, said = run("verify", tmp_path / "models" / "m" / "1", "--module", f"{TARGET}:Adapter")
    assert status == 0, said
    assert "equal to PyTorch's" in said


REFUSED = {
    "has no classify": video_adapters.Without,
    "define feature_size": video_adapters.OfNoSize,
    "logits depend on what follows a clip's own frames": video_adapters.Unmasked,
    "classify returned float32": video_adapters.Vector,
    "start returned other numbers than zeros": video_adapters.StartsAtOnes,
    "state must be a tuple of tensors": video_adapters.NestedState,
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_no_adapter_may_do(said: str) -> None:
    adapter: nn.Module = REFUSED[said]()
    with pytest.raises(BadInput, match=said):
        as_video_network(adapter.eval().requires_grad_(False), 32, 32)


def test_features_may_be_given() -> None:
    network = as_video_network(video_adapters.Given().eval().requires_grad_(False), 32, 32)
    assert (network.in_channels, network.feature_size, network.num_classes) == (0, 6, CLASSES)
    assert network.states == ()
