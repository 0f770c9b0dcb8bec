"""Folders of Hugging Face and timm: the network, its labels and its preprocessing are as the libraries have them."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from resonnx_export.cli import app
from resonnx_export.errors import BadInput
from resonnx_export.inspection import inspect_file
from resonnx_export.networks.resnet import ClassifierNetwork
from resonnx_export.pictures.recipe import parts, training_pixels
from resonnx_export.pictures.recipes import RecipeChoice, ToldPictures
from resonnx_export.proof.reference import normalise
from resonnx_export.sources.hugging_face import read_preprocessor
from resonnx_export.sources.source import read_source, recognise_source
from resonnx_export.sources.timm import read_config, read_pretrained
from resonnx_server.runtime.model_files.manifest import read_version
from typer.testing import CliRunner

from .library_folders import NAMES, PROCESSOR, Written, hugging_face, of_timm, pictures


@pytest.fixture(scope="module")
def written_by_transformers(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return hugging_face(tmp_path_factory.mktemp("transformers"))


def assert_equal(written: Written) -> None:
    """The network that is read from the folder gives the library's logits."""
    source = read_source(written.folder)
    network = recognise_source(source).network
    assert isinstance(network, ClassifierNetwork)
    with torch.no_grad():
        expected, found = written.logits(pictures(32)), network(pictures(32))
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert source.recorded.labels is not None
    assert source.recorded.labels.names == NAMES


def with_config(written: Written, folder: Path, **changes: Any) -> Path:
    """Copy a folder with another config.json; None takes an entry out."""
    shutil.copytree(written.folder, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


def test_a_folder_of_transformers_exports_as_a_whole(written_by_transformers: Written, tmp_path: Path) -> None:
    folder = written_by_transformers.folder
    command = ["classifier", str(folder), "--repository", str(tmp_path / "models"), "--name", "m"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "labels: 5 names of config.json" in result.stdout
    manifest = read_version(tmp_path / "models" / "m" / "1").manifest
    assert tuple(manifest.classifier.labels) == NAMES
    assert (manifest.input.width, manifest.input.height, manifest.input.resize_short_side) == (28, 28, 32)
    assert list(manifest.input.std) == [0.25, 0.5, 0.5]
    told = {each.name: each for each in manifest.assumptions}
    assert told["resizing"].confirmed
    assert "(preprocessor_config.json)" in told["resizing"].value
    assert told["normalisation"].confirmed
    assert told["channel-order"].confirmed
    verified = CliRunner().invoke(app, ["verify", str(tmp_path / "models" / "m" / "1"), "--checkpoint", str(folder)])
    assert verified.exit_code == 0, verified.output
    assert "equal to PyTorch's" in verified.stdout


def test_an_unknown_activation_is_refused(written_by_transformers: Written, tmp_path: Path) -> None:
    folder = with_config(written_by_transformers, tmp_path / "quick", hidden_act="quick_gelu")
    with pytest.raises(BadInput, match=r"hidden_act is 'quick_gelu'.*module transformers:"):
        read_source(folder)


def test_weights_in_shards_and_in_older_formats(written_by_transformers: Written, tmp_path: Path) -> None:
    assert_equal(hugging_face(tmp_path / "sharded", shards="4KB"))
    assert len(read_source(tmp_path / "sharded").files) > 2
    older = with_config(written_by_transformers, tmp_path / "older")
    torch.save(read_source(older).state_dict, older / "pytorch_model.bin")
    (older / "model.safetensors").unlink()
    assert_equal(Written(older, written_by_transformers.logits))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"hidden_act": "gelu"}, {"activation": "gelu"}),
        ({"hidden_act": "swish"}, {"activation": "silu"}),
        ({"downsample_in_first_stage": True, "embedding_size": 8}, {"strides": "2-2"}),
        (
            {"layer_type": "bottleneck", "hidden_sizes": [32, 64], "downsample_in_bottleneck": True},
            {"stride-in": "1x1"},
        ),
    ],
)
def test_properties_of_the_network_are_the_folders(
    config: dict[str, Any], told: dict[str, str], tmp_path: Path
) -> None:
    written = hugging_face(tmp_path, **config)
    assert_equal(written)
    recognised = recognise_source(read_source(tmp_path))
    found = {each.name: (each.value, each.confirmed) for each in recognised.assumptions}
    assert {name: found[name] for name in told} == {name: (value, True) for name, value in told.items()}
    assert any("(config.json)" in note for note in recognised.notes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"size": {"shortest_edge": 384}},
        {"image_processor_type": "BitImageProcessor", "do_center_crop": True, "size": {"shortest_edge": 40},
         "crop_size": {"height": 32, "width": 32}, "resample": 2},
        {"image_processor_type": "ViTImageProcessor", "size": {"height": 24, "width": 32}},
        {"do_normalize": False},
    ],
)  # fmt: skip
def test_preprocessing_is_the_librarys(changes: dict[str, Any], tmp_path: Path) -> None:
    from transformers import AutoImageProcessor

    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | changes))
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (56, 44, 3), np.uint8))
    encoded = io.BytesIO()
    picture.save(encoded, "png")
    told = read_preprocessor(PROCESSOR | changes, "preprocessor_config.json")
    recipe, _, assumptions = RecipeChoice(told=told).for_layout("hugging-face")
    pixels = training_pixels(encoded.getvalue(), recipe)
    expected = processor(picture, return_tensors="pt")["pixel_values"]
    found = normalise(pixels[None].copy(), recipe)
    assert found.shape == expected.shape
    # In levels of a pixel: the library resizes with torch, which rounds otherwise.
    levels = (found - expected).abs() * torch.tensor(recipe.std).view(1, 3, 1, 1) * 255
    assert (levels.mean() < 1, levels.max() < 8) == (True, True)
    assert all(each.confirmed for each in assumptions)


def test_a_folder_of_timm(tmp_path: Path) -> None:
    written = of_timm(tmp_path / "timm", "resnet10t", crop_pct=0.95, interpolation="bilinear", mean=(0.5, 0.4, 0.3))
    assert_equal(written)
    recorded = read_source(written.folder).recorded
    assert recorded.architecture == "resnet10t"
    assert recorded.network["anti-aliasing"] == "none"
    chosen = RecipeChoice(told=recorded.pictures).for_layout("timm")
    described = parts(chosen.recipe)
    # floor(176 / 0.95)
    assert (described["size"], described["resize"], described["filter"]) == ("176x176", "short side 185", "bilinear")
    assert described["mean"] == "mean 0.5,0.4,0.3"
    assert all(each.confirmed for each in chosen.assumptions)


@pytest.mark.parametrize(
    ("config", "resizing"),
    [
        ({"input_size": [3, 64, 64], "crop_pct": 1.0, "crop_mode": "squash"}, "64x64, stretched"),
        ({"input_size": [3, 64, 64], "crop_pct": 0.875}, "64x64, short side 73"),
        # timm keeps the ratio then, which no recipe does: not read, so assumed.
        ({"input_size": [3, 64, 64], "crop_pct": 0.9, "crop_mode": "border"}, None),
        ({"input_size": [3, 64, 48], "crop_pct": 0.9}, None),
        ({"input_size": "large", "crop_pct": [0.9], "mean": "?", "std": [1, 2]}, None),
    ],
)
def test_resizing_of_timm(config: dict[str, Any], resizing: str | None) -> None:
    chosen = RecipeChoice(told=read_pretrained(config)).for_layout("timm")
    (found,) = [each for each in chosen.assumptions if each.name == "resizing"]
    assert found.confirmed == (resizing is not None)
    assert resizing is None or found.value.startswith(resizing)


def test_the_names_of_timm_tell_anti_aliasing() -> None:
    def told(name: str, **arguments: Any) -> str | None:
        return read_config({"architecture": name, "model_args": arguments}).network.get("anti-aliasing")

    assert [told(name) for name in ("resnet50", "seresnextaa101d_32x8d", "resnetblur50")] == ["none", "avg", "blur"]
    assert told("resnet50", num_classes=3, in_chans=1) == "none"
    # An argument that keys do not show.
    assert told("resnet50", aa_layer="blurpool") is None
    assert told("vit_tiny") is None


def test_several_labels_at_once_are_sigmoids(written_by_transformers: Written, tmp_path: Path) -> None:
    folder = with_config(written_by_transformers, tmp_path / "several", problem_type="multi_label_classification")
    assert read_source(folder).recorded.activation == "sigmoid"
    assert read_source(written_by_transformers.folder).recorded.activation is None


def test_the_users_options_go_before_the_folders() -> None:
    told = ToldPictures(read_preprocessor(PROCESSOR, "p.json").changes, "p.json")
    recipe, note, assumptions = RecipeChoice("torchvision-v2", told=told).for_layout("hugging-face")
    assert (recipe.width, recipe.resize_short_side) == (224, 232)
    assert "recipe torchvision-v2" in note
    assert [each.option for each in assumptions] == ["--recipe"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "vit"}, "folder of transformers' 'vit'.*resonnx-export module transformers:"),
        ({"model_type": ["resnet"]}, "folder of transformers' "),
        ({"id2label": {"0": "a", "2": "b"}}, "config.json is JSON with id2label; the numbers must be 0 to 1"),
        ({"id2label": {"0": "cat"}}, "gives 1 labels for 5 classes"),
        ({"id2label": None, "label2id": None}, "does not name its 5 classes; give their names with --labels"),
    ],
)
def test_folders_that_are_refused(
    changes: dict[str, Any], message: str, written_by_transformers: Written, tmp_path: Path
) -> None:
    folder = with_config(written_by_transformers, tmp_path / "changed", **changes)
    command = ["classifier", str(folder), "--repository", str(tmp_path / "models"), "--name", "m"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1 or "reading" in result.stderr
    with pytest.raises(BadInput, match=message):
        raise BadInput(result.stderr.strip().splitlines()[-1])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"{", "config.json is no JSON file"),
        ("config.json", b"[]", "holds no JSON object"),
        ("config.json", b"\xff\xfe", "is no JSON file"),
        ("config.json", b"[" * 100_000, "nested"),
        ("model.safetensors.index.json", b"{}", "no weight_map"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "../m.safetensors"}}', "no file's name"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "/etc/passwd"}}', "no file's name"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "none.safetensors"}}', "No such file"),
        ("model.safetensors", b"", "is empty"),
        ("best.ckpt", b"x", "is a folder without model.safetensors.*give one of its files: best.ckpt"),
    ],
)
def test_damaged_folders(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=message) as refused:
        read_source(tmp_path)
    assert str(refused.value).startswith(str(tmp_path))


def test_a_factor_of_pixels_that_is_not_read() -> None:
    with pytest.raises(BadInput, match=r"rescale_factor is 0\.5"):
        read_preprocessor(PROCESSOR | {"rescale_factor": 0.5}, "preprocessor_config.json")


def test_a_file_beside_a_configuration_names_the_folder(written_by_transformers: Written) -> None:
    lines = dict(inspect_file(written_by_transformers.folder / "model.safetensors"))
    assert "labels" not in lines
    notes = [
        value for title, value in inspect_file(written_by_transformers.folder / "model.safetensors") if title == "note"
    ]
    assert any("config.json beside the file was not read: give the folder" in note for note in notes)
    lines = dict(inspect_file(written_by_transformers.folder))
    assert lines["labels"] == "5 names: cat, dog, bird, fish, frog (config.json)"


@pytest.mark.parametrize(
    "changes",
    [{"image_mean": [10**400] * 3}, {"image_std": [-(10**400)] * 3}, {"crop_pct": 5e-324}],
    ids=["mean", "std", "crop"],
)
def test_numbers_that_are_out_of_range_are_not_taken(changes: dict[str, Any]) -> None:
    told = read_preprocessor(PROCESSOR | changes, "preprocessor_config.json").changes
    usual = read_preprocessor({**PROCESSOR, **dict.fromkeys(changes)}, "preprocessor_config.json").changes
    assert told == usual


def test_another_scale_is_refused_whatever_its_size() -> None:
    with pytest.raises(BadInput, match="rescale_factor is 1000000"):
        read_preprocessor(PROCESSOR | {"rescale_factor": 10**400}, "preprocessor_config.json")
