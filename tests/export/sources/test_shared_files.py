"""Captioners, files of labels and ONNX files of ../shared/cases: what comes of each that the generators write."""

import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest
import torch
from resonnx_export.class_names.files import read_class_names
from resonnx_export.errors import BadInput
from resonnx_export.layouts.captioners import recognise_captioner
from resonnx_export.onnx_files.recognised import open_onnx
from resonnx_export.pictures.recipe import Size
from resonnx_export.vocabulary import load_vocabulary

from ..networks.torchvision_oracle import get_model
from .test_shared_cases import FOLDER

# The layout, or the refusal.
CAPTIONERS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("yunjey_control", "yunjey_2017", "sos_eos", "lstm_three_layers", "gru"), "yunjey"),
    **dict.fromkeys(("lightning_captioner", "one_dict_two_states"), "yunjey"),
    "kaggle_flickr8k_attention": "flickr8k-attention",
    "encoder_attr_backbone": "udacity-cvnd",
    "picture_each_step": "picture-each-step",
    "init_state": "picture-state",
    "sgrvinod_state_dicts": "sgrvinod",
    "aladdin_inception": "the encoder is Inception v3",
    "hhtseng_video": "this is a video classifier",
}
# By file; all others are read.
LABELS_REFUSED: Final = {
    "empty.txt": "is empty",
    "idx_from_1.json": "numbers are 1 to 3",
    "jsonl.txt": "begins like JSON and is not",
    "labels.yaml": "is YAML",
    "latin1.txt": "iconv",
    "leading_blank.txt": "line 1 is blank",
    "middle_blank.txt": "line 2 is blank",
    "list_numbers.json": "entry 0 is the number 0",
}
ONNX_REFUSED: Final = {
    "fp16": "in float16",
    "int8_qdq": "in integers",
    "int8_qoperator": "in integers",
    "opset6": "opset 6",
}

pytestmark = [
    pytest.mark.slow,
    # Of the generators.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"),
    pytest.mark.skipif(not FOLDER.is_dir(), reason="../shared/cases is not there"),
]


@pytest.fixture(scope="module")
def generators() -> Iterator[Mapping[str, ModuleType]]:
    """The generators' modules by name."""
    # torchvision may not load before its operators are declared.
    assert get_model
    register = torch.library.register_fake
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in ("captioners", "label_files", "onnx_files")}
    finally:
        sys.path.remove(str(FOLDER))
        for name in {"captioners", "label_files", "onnx_files", "common", "data_loader"} - before:
            sys.modules.pop(name, None)
        torch.library.register_fake = register


def test_every_captioner_has_an_outcome(generators: Mapping[str, ModuleType]) -> None:
    assert generators["captioners"].CASES.keys() == CAPTIONERS.keys()


@pytest.mark.parametrize("name", CAPTIONERS)
def test_captioners(name: str, generators: Mapping[str, ModuleType], tmp_path: Path) -> None:
    generators["captioners"].CASES[name](tmp_path)
    names, words = (tmp_path / "files.txt").read_text().splitlines()
    files = [tmp_path / file for file in names.split()]
    try:
        outcome = recognise_captioner(files, load_vocabulary(tmp_path / words)).recognised.layout
    except BadInput as refused:
        outcome = str(refused)
    assert outcome.startswith(CAPTIONERS[name])


def test_files_of_labels(generators: Mapping[str, ModuleType], tmp_path: Path) -> None:
    generators["label_files"].write(tmp_path)
    refused = {}
    for file in tmp_path.iterdir():
        try:
            assert len(read_class_names(file).names) == 3
        except BadInput as error:
            refused[file.name] = str(error)
    assert refused.keys() == LABELS_REFUSED.keys()
    for name, message in LABELS_REFUSED.items():
        assert message in refused[name]


def test_onnx_files(generators: Mapping[str, ModuleType], tmp_path: Path) -> None:
    generators["onnx_files"].write(tmp_path)
    refused = {}
    for folder in tmp_path.iterdir():
        try:
            assert open_onnx(folder / "1" / "model.onnx", Size(32, 32)).num_classes == 5
        except BadInput as error:
            refused[folder.name] = str(error)
    assert refused.keys() == ONNX_REFUSED.keys()
    for name, message in ONNX_REFUSED.items():
        assert message in refused[name]
