"""The networks that resonnx can export: ResNet classifiers, and captioners with a recurrent network on a ResNet.

`detect` turns a bare state_dict into the configuration that it was trained with.
"""

from resonnx_export.networks.captioner import (
    Captioner,
    CaptionerConfig,
    config_from_state_dict,
)
from resonnx_export.networks.classifier import ClassifierNetwork
from resonnx_export.networks.detect import (
    CheckpointMismatch,
    architecture_name,
    check_fits,
    load_strict,
    resnet_config_from_state_dict,
)
from resonnx_export.networks.protocol import CaptionNetwork, Encoded, Stepped
from resonnx_export.networks.resnet import ARCHITECTURES, ResNet, ResNetConfig
from resonnx_export.networks.show_tell import ShowTell, ShowTellConfig
from resonnx_export.networks.top_down import TopDown, TopDownConfig

__all__ = [
    "ARCHITECTURES",
    "CaptionNetwork",
    "Captioner",
    "CaptionerConfig",
    "CheckpointMismatch",
    "ClassifierNetwork",
    "Encoded",
    "ResNet",
    "ResNetConfig",
    "ShowTell",
    "ShowTellConfig",
    "Stepped",
    "TopDown",
    "TopDownConfig",
    "architecture_name",
    "check_fits",
    "config_from_state_dict",
    "load_strict",
    "resnet_config_from_state_dict",
]
