"""What a checkpoint file may be, and what is said of those that are something else."""

import hashlib
import json
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from resonnx_export.checkpoints.files import load_checkpoint
from resonnx_export.errors import BadInput
from resonnx_export.layouts.classifiers import recognise_classifier
from resonnx_export.networks.resnet import ResNet
from safetensors.torch import save_file

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.int64)}


class Forbidden:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[object, ...]:
        return (exit, (3,))


def test_every_container_gives_the_same_tensors(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors")
    torch.save(TENSORS, tmp_path / "a.pth")
    torch.save(OrderedDict(TENSORS), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": TENSORS, "epoch": 3, "best": 0.7}, tmp_path / "b.pth")
    torch.save({"model": TENSORS, "optimizer": {"lr": 0.1}}, tmp_path / "c.pth.tar")
    # The content counts, not the name.
    save_file(TENSORS, tmp_path / "misnamed.pth")
    torch.save({name: torch.nn.Parameter(value.float()) for name, value in TENSORS.items()}, tmp_path / "parameters.pt")
    for path in tmp_path.iterdir():
        loaded = load_checkpoint(path)
        assert loaded.state_dict.keys() == TENSORS.keys(), path
        assert all(torch.equal(loaded.state_dict[name], value) for name, value in TENSORS.items()), path
        assert not any(value.requires_grad for value in loaded.state_dict.values())
        assert loaded.file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "PNG"),
        (b"epoch,loss\n1,2\n", "text that begins with 'epoch"),
        (b"class 0\nclass 1\n", "text that begins with 'class"),
        (b"PK\x03\x04" + bytes(60), "zip"),
        (bytes(range(128, 200)), "pickle|unknown"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{not json here }", "damaged safetensors"),
        (json.dumps({"a": 1}).encode(), "text that begins"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=found):
        load_checkpoint(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        load_checkpoint(tmp_path / "none.pth")
    with pytest.raises(BadInput, match="cannot be read"):
        load_checkpoint(tmp_path)


def test_a_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    torch.save(TENSORS, path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(BadInput, match="zip archive that is damaged"):
        load_checkpoint(path)


def test_nothing_is_run(tmp_path: Path) -> None:
    torch.save({"state_dict": TENSORS, "extra": Forbidden()}, tmp_path / "object.pth")
    assert load_checkpoint(tmp_path / "object.pth").state_dict.keys() == TENSORS.keys()
    torch.save({"weights": Forbidden()}, tmp_path / "object.pth")
    with pytest.raises(BadInput, match=r"holds no state_dict .* weights \(_sitebuiltins.Quitter\(\)\)"):
        load_checkpoint(tmp_path / "object.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Forbidden()))
    with pytest.raises(BadInput, match=r"Quitter|pickle"):
        load_checkpoint(tmp_path / "plain.pkl")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"epoch": 3, "weights": {"a": 1}}, r"epoch \(int\), weights \(dict\)"),
        ([torch.ones(2)], "a list"),
        (torch.ones(2), "a Tensor"),
        ({}, "nothing"),
    ],
)
def test_tensors_without_names(tmp_path: Path, content: object, found: str) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(BadInput, match=found):
        load_checkpoint(tmp_path / "x.pth")


def test_layouts_are_recognised(classifier_file: Path, captioner_file: Path) -> None:
    classifier = recognise_classifier(load_checkpoint(classifier_file).state_dict)
    assert (classifier.layout, type(classifier.network)) == ("torchvision", ResNet)
    assert not classifier.network.training
    with pytest.raises(BadInput, match="is a captioner"):
        recognise_classifier(load_checkpoint(captioner_file).state_dict)


def test_half_precision_weights_become_float32(network: ResNet) -> None:
    recognised = recognise_classifier({name: value.half() for name, value in network.state_dict().items()})
    assert recognised.dtypes == ("float16",)
    assert {parameter.dtype for parameter in recognised.network.parameters()} == {torch.float32}


def test_an_unknown_layout_tells_its_keys() -> None:
    with pytest.raises(BadInput, match=r"no known layout: 2 keys, the first a, b; no ResNet was found"):
        recognise_classifier(TENSORS)
