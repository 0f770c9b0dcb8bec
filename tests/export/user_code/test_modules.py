"""`resonnx-export module`: user's classes, functions, instances and programs, equal to what they answer in PyTorch."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from resonnx import Client
from resonnx_export.proof.reference import normalise
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.manifest import read_version
from torch import nn

from ...conftest import StartServer
from ..layouts.classifier_sources import randomise
from .conftest import assert_equal_to, module, net, run


def save_program(made: nn.Module, example: torch.Tensor, path: Path) -> None:
    """Save as a TorchScript or torch.export program, by the file's name."""
    if path.suffix == ".pt2":
        torch.export.save(torch.export.export(made, (example,)), path)
        return
    # Tracing warns of the sizes that GroupNorm looks at, and both of their age.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (torch.jit.trace(made, example) if path.stem == "traced" else torch.jit.script(made)).save(str(path))


def test_a_class_with_a_checkpoint_of_lightning(code: Path, labels: Path, tmp_path: Path) -> None:
    made = net(code, width=16)
    wrapped = {f"model._orig_mod.{key}": value for key, value in made.state_dict().items()}
    torch.save(
        {
            "state_dict": wrapped | {"criterion.weight": torch.ones(5)},
            "optimizer_states": [{"exp_avg": torch.zeros(3)}],
        },
        tmp_path / "m.ckpt",
    )
    done = module(
        f"{code}:Net", labels, tmp_path, "--checkpoint", tmp_path / "m.ckpt", "--set", "width=16", size="48x32"
    )
    assert done.exit_code == 0, done.output
    assert done.stderr.count("runs the code of") == 1
    assert "criterion.weight" in done.stdout
    folder = tmp_path / "models" / "m" / "1"
    assert_equal_to(folder, made)
    manifest = read_version(folder).manifest
    assert manifest.verified_against == pb.REFERENCE_USER_CODE
    assert (manifest.source.layout, manifest.source.architecture) == ("module", "Net")
    assert list(manifest.source.file_names) == ["m.ckpt"]
    assert {each.name for each in manifest.assumptions} == {"resizing", "normalisation", "channel-order", "scale"}
    again = run("verify", folder, "--module", f"{code}:Net", "--checkpoint", tmp_path / "m.ckpt", "--set", "width=16")
    assert again.exit_code == 0, again.output
    assert "equal to PyTorch's" in again.stdout
    without = run("verify", folder, "--checkpoint", tmp_path / "m.ckpt")
    assert without.exit_code == 2
    assert "--module" in without.stderr
    torch.save(net(code, seed=1, width=16).state_dict(), tmp_path / "other.pth")
    other = ("verify", folder, "--module", f"{code}:Net", "--checkpoint", tmp_path / "other.pth", "--set", "width=16")
    assert "other files" in run(*other).stderr


def test_one_of_several_networks_of_a_file(code: Path, labels: Path, tmp_path: Path) -> None:
    student, teacher = (net(code, seed=seed) for seed in (1, 2))
    torch.save({"student": student.state_dict(), "teacher": teacher.state_dict()}, tmp_path / "m.ckpt")
    given = ("--checkpoint", tmp_path / "m.ckpt")
    done = module(f"{code}:Net", labels, tmp_path, *given, "--weights", "teacher")
    assert done.exit_code == 0, done.output
    folder = tmp_path / "models" / "m" / "1"
    assert_equal_to(folder, teacher)
    told = [each for each in read_version(folder).manifest.assumptions if each.name == "weights"]
    assert [(each.value, each.confirmed) for each in told] == [("teacher", True)]
    again = run("verify", folder, "--module", f"{code}:Net", *given)
    assert again.exit_code == 0, again.output
    assert "equal to PyTorch's" in again.stdout
    unknown = module(f"{code}:Net", labels, tmp_path, *given, "--weights", "ema")
    assert unknown.exit_code == 2
    assert "no weights named 'ema' (--weights); it has 'student', 'teacher'" in unknown.stderr


@pytest.mark.parametrize("attribute", ["make", "NET"])
def test_a_function_and_an_instance(
    attribute: str, code: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(code.parent)
    checkpoint: tuple[object, ...] = ()
    if attribute == "make":
        torch.save(net(code).state_dict(), tmp_path / "w.pth")
        checkpoint = ("--checkpoint", tmp_path / "w.pth", "--set", "dropout=0.1")
    done = module(f"net:{attribute}", labels, tmp_path, *checkpoint)
    assert done.exit_code == 0, done.output
    assert_equal_to(tmp_path / "models" / "m" / "1", net(code, seed=0 if attribute == "make" else 3))


@pytest.mark.slow
def test_grey_pictures(code: Path, labels: Path, tmp_path: Path) -> None:
    torch.save(net(code, channels=1).state_dict(), tmp_path / "w.pth")
    given = ("--checkpoint", tmp_path / "w.pth", "--set", "channels=1", "--mean", 0.5, "--std", 0.5)
    done = module(f"{code}:Net", labels, tmp_path, *given)
    assert done.exit_code == 0, done.output
    assert_equal_to(tmp_path / "models" / "m" / "1", net(code, channels=1), grey=True)


@pytest.mark.parametrize("kind", [pytest.param("traced.pt", marks=pytest.mark.slow), "scripted.pt", "program.pt2"])
def test_programs(kind: str, code: Path, labels: Path, tmp_path: Path) -> None:
    made, example, path = net(code), torch.zeros(1, 3, 40, 32), tmp_path / kind
    if kind == "scripted.pt":
        made = randomise(
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AvgPool2d(30), nn.Flatten(), nn.Linear(16, 5))
        )
    save_program(made, example, path)
    done = module(path, labels, tmp_path, size=None if kind == "program.pt2" else "40x32")
    if kind == "scripted.pt":
        assert "--size changes it" in done.stderr
        done = module(path, labels, tmp_path, size="32x64")
    assert done.exit_code == 0, done.output
    manifest = read_version(tmp_path / "models" / "m" / "1").manifest
    assert_equal_to(tmp_path / "models" / "m" / "1", made)
    if kind == "program.pt2":
        assert (manifest.input.height, manifest.input.width) == (40, 32)
    refused = module(path, labels, tmp_path, "--checkpoint", path)
    assert "leave --checkpoint" in refused.stderr


def test_a_program_with_loops_is_refused(code: Path, labels: Path, tmp_path: Path) -> None:
    """Scripted GroupNorm loops over its sizes."""
    save_program(net(code), torch.zeros(1, 3, 32, 32), tmp_path / "scripted.pt")
    refused = module(tmp_path / "scripted.pt", labels, tmp_path)
    assert refused.exit_code == 2
    assert "give the Python class that it was made from" in refused.stderr


GROUP_NORM = """
from torch import nn


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.GroupNorm(4, channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.GroupNorm(4, channels)

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu()
        return (x + self.bn2(self.conv2(y))).relu()


def build():
    stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.GroupNorm(4, 8), nn.ReLU()
    return nn.Sequential(*stem, Block(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
"""


@torch.no_grad()
def test_a_group_norm_resnet_is_served(tmp_path: Path, start_server: StartServer) -> None:
    """From the user's file to a server's answers; a scaled first convolution is normalised away.

    So the damaged copy of the check is another.
    """
    path = tmp_path / "gn.py"
    path.write_text(GROUP_NORM)
    space: dict[str, object] = {"__name__": "gn"}
    exec(compile(GROUP_NORM, path, "exec"), space)
    made = randomise(space["build"]())  # type: ignore[operator]
    torch.save({"model": made.state_dict()}, tmp_path / "w.pth")
    (tmp_path / "labels.txt").write_text("0\n1\n2\n3\n4\n")
    given = ("--checkpoint", tmp_path / "w.pth", "--activation", "none", "--stretch")
    done = module(f"{path}:build", tmp_path / "labels.txt", tmp_path, *given)
    assert done.exit_code == 0, done.output
    manifest = read_version(tmp_path / "models" / "m" / "1").manifest
    assert manifest.parity.damaged_copy_rejected
    image = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    expected = made(normalise(image[None], manifest.input)).numpy()[0]
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    with start_server(tmp_path / "models", "--strict") as server, Client(server.grpc) as client:
        predictions = client.classify(file.getvalue(), "m", top_k=5).predictions
        assert client.model("m").verified_against == "user_code"
    found = np.array([score for _, score in sorted((each.label, each.score) for each in predictions)])
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
