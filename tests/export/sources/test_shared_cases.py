"""Checkpoint files of ../shared/cases, laid out as public projects lay them out: what comes of each.

The generators write a file and the logits of the eager network that it is from.
"""

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from resonnx_export.errors import BadInput
from resonnx_export.layouts.recognised import RecognisedCheckpoint
from resonnx_export.networks.resnet import ClassifierNetwork
from resonnx_export.sources.source import read_source, recognise_source

from ..networks.torchvision_oracle import get_model

FOLDER: Final = Path(__file__).resolve().parents[4] / "shared" / "cases" / "checkpoints"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY = ((0.1307,), (0.3081,))

EQUAL: Final = (
    *("lightning_model", "lightning_net", "lightning_criterion", "attr_resnet", "attr_net", "attr_network"),
    *("attr_backbone_fc", "attr_cnn", "attr_feature_extractor", "ema_module", "ddp_compile", "compile_lightning"),
    *("hf_timm_wrapper", "backbone_plus_classifier", "resnet_plus_fc", "children_sequential_fc"),
    *("children_features_classifier", "mmpretrain_linear_head", "cadene_resnet", "cadene_se_resnet50", "torchreid"),
    *("moco_lincls", "places365_py2", "places365_whole", "legacy", "fastai_pth", "keyword_checkpoint"),
    *("container_model_state", "container_weights", "container_params", "container_state", "container_best_model"),
    *("container_module", "container_resnet", "container_teacher", "container_classifier", "nested_container"),
    *("head_dropout", "head_mlp", "head_two_linear", "head_1000_plus_last", "one_logit", "grey_28"),
    *("channels_last_half", "bf16_tied", "hf_folder", "hf_downsample_in_bottleneck", "hf_downsample_first"),
    *("hf_act_gelu", "weiaicunzai", "timm_resnet18d", "timm_resnet50d", "timm_resnet10t", "timm_resnet14t"),
    *("timm_resnet26t", "timm_seresnet18", "timm_seresnet50", "timm_ecaresnet50d", "timm_ecaresnet26t"),
    *("timm_ecaresnetlight", "timm_resnext50_32x4d", "timm_resnext50d_32x4d", "timm_seresnext26d_32x4d"),
    *("timm_resnet50c", "timm_wide_resnet50_2", "timm_legacy_seresnet50", "timm_resnetblur50"),
    # Strides, dilations and pool are in the pickled module.
    "whole_pickled_dilated",
)
# What the user states; without it the property is listed as assumed, and the logits differ.
STATED: Final[Mapping[str, Mapping[str, str]]] = {
    "head_dropout_only_between": {"head-activation": "none"},
    "head_tanh": {"head-activation": "leaky_relu:0.2"},
    "cifar_stem_stride1_pool": {"pool": "max"},
    "huyvnphan_cifar": {"pool": "max"},
    "timm_resnetaa50": {"anti-aliasing": "avg"},
    "timm_resnetaa50d": {"anti-aliasing": "avg"},
    "timm_seresnextaa101d_32x8d": {"anti-aliasing": "avg"},
    "dilated": {"dilation": "layer3-4"},
    "no_maxpool_7x7": {"pool": "none"},
    "bn_eps": {"bn-eps": "0.001"},
}
REFUSED: Final = {
    "swav": r"self-supervised trunk \(SwAV\) without classes",
    "dino_full": r"'student' \(.*'teacher' \(a trunk, without a head for classes\)",
    "tar_format": r"a tar archive, as PyTorch before 0\.1\.10 saved",
    "torchscript": "TorchScript",
    "pt2": r"torch\.export",
    "quantized": "quantised tensors .*: export the float checkpoint",
    "multi_head": r"2 heads were found, fc_age \(5 outputs\), fc_gender \(2 outputs\)",
    "optimizer_only": "an optimiser's state only",
    "no_running_stats": "no running_mean and running_var",
    "timm_resnet50_gn": "GroupNorm",
    "timm_legacy_seresnet18": "one more ReLU",
}
# Networks of other families.
OTHERS: Final = (
    "iresnet",
    "r3d_18",
    "hara_3d",
    "deeplab_resnet",
    "fasterrcnn",
    "densenet",
    "timm_resnetrs50",
    "timm_resnetv2_50",
    "timm_resnetv2_50x1_bit",
    "timm_skresnet18",
    "timm_resnest14d",
    "timm_res2net50_26w_4s",
    "timm_gcresnet50t",
    "timm_cspresnet50",
    "timm_resnet32ts",
    "timm_resnet33ts",
    "timm_resnet51q",
    "timm_tresnet_m",
    "timm_ese_vovnet19b_dw",
    "timm_gernet_s",
    "timm_regnety_002",
)
# Read, and refused when exported.
NO_CLASSIFIER: Final = {"trunk_only": "num_classes", "four_channels": "in_channels"}

pytestmark = [
    pytest.mark.slow,
    # Of the generators.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"),
    pytest.mark.skipif(not FOLDER.is_dir(), reason="../shared/cases is not there"),
]


@pytest.fixture(scope="module")
def generators() -> Iterator[Mapping[str, Callable[[Path], None]]]:
    """The generators by name."""
    # torchvision may not load before its operators are declared.
    assert get_model
    register = torch.library.register_fake
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("silent").CASES | importlib.import_module("classifiers").CASES
    finally:
        sys.path.remove(str(FOLDER))
        for name in ("silent", "classifiers", "common"):
            sys.modules.pop(name, None)
        torch.library.register_fake = register


def read(folder: Path, assume: Mapping[str, str]) -> RecognisedCheckpoint:
    files = (folder / "inspect.txt").read_text().split()
    return recognise_source(read_source(folder / files[0]), assume=assume)


@torch.no_grad()
def deviation(found: RecognisedCheckpoint, folder: Path) -> float:
    """Return the greatest difference of the logits as a share of the largest."""
    network = found.network
    assert isinstance(network, ClassifierNetwork)
    expected = np.load(folder / "expected.npz")
    mean, std = GREY if network.in_channels == 1 else (MEAN, STD)
    pixels = torch.from_numpy(expected["pixels"][..., : network.in_channels]).permute(0, 3, 1, 2).float() / 255
    inputs = (pixels - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(1, -1, 1, 1)
    logits: Any = network(inputs).numpy()
    assert logits.shape == expected["logits"].shape
    return float(np.abs(logits - expected["logits"]).max() / np.abs(expected["logits"]).max())


def written(name: str, generators: Mapping[str, Callable[[Path], None]], folder: Path) -> Path:
    if name == "cadene_se_resnet50":
        pytest.importorskip("pretrainedmodels")
    generators[name](folder)
    return folder


def test_every_case_has_an_outcome(generators: Mapping[str, Callable[[Path], None]]) -> None:
    told = {*EQUAL, *STATED, *REFUSED, *OTHERS, *NO_CLASSIFIER}
    assert generators.keys() == told


@pytest.mark.parametrize("name", EQUAL)
def test_equal(name: str, generators: Mapping[str, Callable[[Path], None]], tmp_path: Path) -> None:
    folder = written(name, generators, tmp_path)
    found = read(folder, {})
    assert deviation(found, folder) <= 1e-4
    if name == "lightning_criterion":
        assert any("criterion.weight" in note for note in found.notes)


@pytest.mark.parametrize("name", STATED)
def test_equal_if_stated(name: str, generators: Mapping[str, Callable[[Path], None]], tmp_path: Path) -> None:
    folder = written(name, generators, tmp_path)
    (axis,) = STATED[name]
    found = read(folder, {})
    assert deviation(found, folder) > 1e-3
    assert [each.confirmed for each in found.assumptions if each.name == axis] == [False]
    assert deviation(read(folder, STATED[name]), folder) <= 1e-4


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, generators: Mapping[str, Callable[[Path], None]], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=REFUSED[name]):
        read(written(name, generators, tmp_path), {})


@pytest.mark.parametrize("name", OTHERS)
def test_other_families(name: str, generators: Mapping[str, Callable[[Path], None]], tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refused:
        read(written(name, generators, tmp_path), {})
    assert "resnet8_w32_small" not in str(refused.value)


@pytest.mark.parametrize("name", NO_CLASSIFIER)
def test_no_classifier(name: str, generators: Mapping[str, Callable[[Path], None]], tmp_path: Path) -> None:
    found = read(written(name, generators, tmp_path), {})
    assert getattr(found.network, NO_CLASSIFIER[name]) in (0, 4)
