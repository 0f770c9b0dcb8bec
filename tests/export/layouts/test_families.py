"""Networks that are not exported from their keys: the message says what they are, and how to export them."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from resonnx_export.cli import app
from resonnx_export.errors import BadInput
from resonnx_export.inspection import inspect_file
from resonnx_export.layouts.classifiers import recognise_classifier
from resonnx_export.layouts.families import OtherNetwork, refuse_other_networks
from torch import Tensor
from typer.testing import CliRunner

from ..networks.torchvision_oracle import get_model
from ..sources.library_folders import of_timm


def keys_of(library: str, name: str) -> dict[str, Tensor]:
    """Return the keys and shapes of a library's network."""
    import timm

    build: Callable[..., torch.nn.Module] = timm.create_model if library == "timm" else get_model
    backbone = {"weights_backbone": None} if re.search("rcnn|fcn|retina", name) else {}
    with torch.device("meta"):
        return build(name, **backbone).state_dict()


def refusal(state_dict: dict[str, Tensor]) -> str:
    with pytest.raises(OtherNetwork) as refused:
        recognise_classifier(state_dict)
    assert "nearest" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("library", "name", "family", "target"),
    [
        ("timm", "resnetrs50", "ResNet-RS", "timm:resnetrs50"),
        ("timm", "resnetv2_50", "ResNetV2 or BiT", "timm:resnetv2_50"),
        ("timm", "skresnet18", "selective-kernel", "timm:skresnet18"),
        ("timm", "resnest14d", "ResNeSt", "timm:resnest14d"),
        ("timm", "res2net50_26w_4s", "Res2Net", "timm:res2net50_26w_4s"),
        ("timm", "resnet50_gn", "GroupNorm", "timm:resnet50_gn"),
        ("timm", "nf_resnet26", "normaliser-free", "timm:nf_resnet26"),
        ("timm", "dm_nfnet_f0", "an NFNet", "timm:dm_nfnet_f0"),
        ("timm", "rexnet_100", "a ReXNet", "timm:rexnet_100"),
        ("timm", "dpn68", "a DPN", "timm:dpn68"),
        ("timm", "swinv2_cr_tiny_224", "Swin Transformer V2", "timm:swinv2_tiny_window8_256"),
        ("timm", "gcresnet50t", "byobnet", "timm:resnet33ts"),
        ("timm", "mobilenetv3_small_050", "MobileNetV3", "timm:mobilenetv3_large_100"),
        ("timm", "mobilenetv2_050", "MobileNetV2", "timm:mobilenetv2_100"),
        ("timm", "efficientnet_b0", "EfficientNet", "timm:efficientnet_b0"),
        ("timm", "vit_tiny_patch16_224", "ViT", "timm:vit_base_patch16_224"),
        ("timm", "convnext_atto", "ConvNeXt", "timm:convnext_tiny"),
        ("torchvision", "mobilenet_v2", "MobileNetV2", "torchvision:mobilenet_v2"),
        ("torchvision", "efficientnet_b0", "EfficientNet", "torchvision:efficientnet_b0"),
        ("torchvision", "densenet121", "DenseNet", "torchvision:densenet121"),
        ("torchvision", "vgg11", "VGG", "torchvision:vgg16"),
        ("torchvision", "vit_b_32", "ViT", "torchvision:vit_b_16"),
    ],
)
def test_other_classifiers_export_with_their_own_class(library: str, name: str, family: str, target: str) -> None:
    message = refusal(keys_of(library, name))
    assert family in message
    assert f"resonnx-export module {target} --checkpoint FILE" in message


def test_a_name_that_is_a_guess_is_told_as_one() -> None:
    """The depth tells skresnet50, not skresnet50d."""
    message = refusal(keys_of("timm", "skresnet50d"))
    assert "probably timm:skresnet50 (put the name of your variant there)" in message
    assert "such as timm:efficientnet_b0" in refusal(keys_of("timm", "efficientnet_b1"))


@pytest.mark.parametrize("part", ["classifier.", "bert.attn.", "layer1.0.", "."])
def test_families_are_named_in_linear_time(part: str) -> None:
    one = torch.zeros(4, 3, 3, 3)
    hostile = {f"{number}.{part * (180 // len(part))}": one for number in range(20_000)}
    began = time.process_time()
    refuse_other_networks(hostile)
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("fasterrcnn_resnet50_fpn", "a detector (Faster R-CNN)"),
        ("retinanet_resnet50_fpn", "a detector (RetinaNet"),
        ("fcn_resnet50", "a segmentation network"),
        ("r3d_18", "a video network (3-D convolutions)"),
    ],
)
def test_networks_for_another_purpose(name: str, task: str) -> None:
    message = refusal(keys_of("torchvision", name))
    assert task in message
    assert "not a classifier" in message


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("MoCo", {"encoder_q.conv1.weight": 4, "queue": 2}),
        ("SwAV", {"projection_head.0.weight": 2, "prototypes.weight": 2}),
        ("DINO", {"head.last_layer.weight_v": 2}),
        ("BYOL", {"online_encoder.net.conv1.weight": 4}),
        ("SimCLR", {"projection_head.0.weight": 2}),
    ],
)
def test_trunks_without_classes(name: str, beside: dict[str, int]) -> None:
    trunk = {key: value for key, value in keys_of("torchvision", "resnet18").items() if not key.startswith("fc.")}
    more = {key: torch.zeros((1,) * dimensions) for key, dimensions in beside.items()}
    message = refusal({f"module.{key}": value for key, value in (trunk | more).items()})
    assert f"a self-supervised trunk ({name}" in message
    assert "without classes" in message


@pytest.mark.parametrize("name", ["projection", "projector", "predictor", "last_layer"])
def test_one_linear_layer_is_a_head_under_any_name(name: str) -> None:
    state = {key: torch.zeros(value.shape) for key, value in keys_of("torchvision", "resnet18").items()}
    state = {key.replace("fc.", f"{name}."): value for key, value in state.items()}
    assert recognise_classifier(state).has_classes


def test_a_1x1_convolution_behind_a_backbone_is_no_segmentation() -> None:
    state = {f"backbone.{key}": torch.zeros(value.shape) for key, value in keys_of("torchvision", "resnet18").items()}
    weight, bias = state.pop("backbone.fc.weight"), state.pop("backbone.fc.bias")
    state |= {"classifier.1.weight": weight[:, :, None, None], "classifier.1.bias": bias}
    assert recognise_classifier(state).has_classes


def test_a_network_of_insightface() -> None:
    state = {"conv1.weight": torch.zeros(8, 3, 3, 3), "prelu.weight": torch.zeros(8), "fc.weight": torch.zeros(5, 8)}
    state |= {f"layer{stage}.0.{name}": torch.zeros(8) for stage in (1, 2) for name in ("prelu.weight", "bn3.weight")}
    assert "iresnet" in refusal(state)


def test_parameters_without_statistics() -> None:
    parameters = {key: value for key, value in keys_of("torchvision", "resnet18").items() if "running" not in key}
    message = refusal(parameters)
    assert "no running_mean and running_var" in message
    assert "save the model's state_dict()" in message


@pytest.mark.slow
def test_networks_that_are_exported_are_none_of_them() -> None:
    import timm

    near = re.compile("resnetrs|_gn")
    for name in (name for name in timm.list_models(module="resnet") if not near.search(name)):
        refuse_other_networks(keys_of("timm", name))


def test_the_command_names_the_file(tmp_path: Path) -> None:
    state = {key: torch.zeros(value.shape) for key, value in keys_of("timm", "mobilenetv2_035").items()}
    torch.save(state, tmp_path / "m.pth")
    command = f"resonnx-export module timm:mobilenetv2_100 --checkpoint {tmp_path / 'm.pth'} --labels LABELS"
    with pytest.raises(OtherNetwork, match=re.escape(command)):
        list(inspect_file(tmp_path / "m.pth"))
    typed = ["classifier", str(tmp_path / "m.pth"), "--repository", str(tmp_path / "models"), "--name", "m"]
    result = CliRunner().invoke(app, typed)
    assert result.exit_code == 2
    assert command in result.stderr


def test_a_folder_of_timm_names_its_network(tmp_path: Path) -> None:
    written = of_timm(tmp_path / "timm", "test_vit")
    with pytest.raises(OtherNetwork, match="resonnx-export module timm:test_vit --checkpoint"):
        list(inspect_file(written.folder))


def test_the_next_command_of_a_classifier(tmp_path: Path) -> None:
    state = {key: torch.zeros(value.shape) for key, value in keys_of("torchvision", "resnet18").items()}
    torch.save(state, tmp_path / "m.pth")
    lines = dict(inspect_file(tmp_path / "m.pth"))
    assert lines["next"] == (
        f"resonnx-export classifier {tmp_path / 'm.pth'} --labels LABELS --repository models --name NAME"
    )
    state |= {"fc.weight": torch.zeros(1, 512), "fc.bias": torch.zeros(1)}
    torch.save({"state_dict": state, "classes": ["cat"]}, tmp_path / "m.pth")
    assert "m.pth --activation sigmoid --repository" in dict(inspect_file(tmp_path / "m.pth"))["next"]
    torch.save({key: value for key, value in state.items() if not key.startswith("fc.")}, tmp_path / "m.pth")
    assert "train a linear layer" in dict(inspect_file(tmp_path / "m.pth"))["next"]


def test_the_next_command_reads_the_same_weights(tmp_path: Path) -> None:
    state = {key: torch.zeros(value.shape) for key, value in keys_of("torchvision", "resnet18").items()}
    averaged = {key: value.clone() for key, value in state.items()}
    torch.save({"model": state, "model_ema": averaged}, tmp_path / "best (1).pth")
    lines = dict(inspect_file(tmp_path / "best (1).pth", "model_ema"))
    assert f"resonnx-export classifier '{tmp_path / 'best (1).pth'}' --weights model_ema --labels" in lines["next"]


@pytest.mark.parametrize(("channels", "told"), [(1, "--mean MEAN --std STD --repository"), (4, "RGB and grey")])
def test_the_next_command_of_pictures_without_three_channels(channels: int, told: str, tmp_path: Path) -> None:
    state = {key: torch.zeros(value.shape) for key, value in keys_of("torchvision", "resnet18").items()}
    torch.save(state | {"conv1.weight": torch.zeros(64, channels, 7, 7)}, tmp_path / "m.pth")
    assert told in dict(inspect_file(tmp_path / "m.pth"))["next"]


def test_a_network_of_no_known_family_is_exported_with_its_own_class(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(8, 3, 3, 3), "conv2.weight": torch.zeros(8, 8, 3, 3)}, tmp_path / "m.pth")
    with pytest.raises(
        OtherNetwork, match=r"no ResNet was found .* module your_file\.py:build --checkpoint \S*m\.pth "
    ):
        list(inspect_file(tmp_path / "m.pth"))


def test_the_encoder_of_a_captioner_goes_with_its_decoder(tmp_path: Path) -> None:
    state = {key: torch.zeros(value.shape) for key, value in keys_of("torchvision", "resnet18").items()}
    norm = {f"bn.{name}": torch.zeros(1000) for name in ("weight", "bias", "running_mean", "running_var")}
    torch.save({f"resnet.{key}": value for key, value in state.items()} | norm, tmp_path / "e.pth")
    assert "resonnx-export captioner" in dict(inspect_file(tmp_path / "e.pth"))["next"]


def test_a_captioner_with_another_encoder(tmp_path: Path) -> None:
    state = {"encoder.Mixed_5b.weight": torch.zeros(4, 3, 3, 3), "decoder.embed.weight": torch.zeros(5, 4)}
    state |= {f"decoder.lstm.{name}_l0": torch.zeros(16, 4) for name in ("weight_ih", "weight_hh")}
    state |= {f"decoder.lstm.{name}_l0": torch.zeros(16) for name in ("bias_ih", "bias_hh")}
    torch.save(state | {"decoder.linear.weight": torch.zeros(5, 4)}, tmp_path / "m.pth")
    with pytest.raises(BadInput, match=r"encoder is Inception v3.* module your_file"):
        list(inspect_file(tmp_path / "m.pth"))
