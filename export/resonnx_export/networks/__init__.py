"""The networks that resonnx can export: ResNet classifiers and ResNet+LSTM captioners.

`detect` turns a bare state_dict into the configuration that it was trained with.
"""

from resonnx_export.networks.captioner import (
    Captioner,
    CaptionerConfig,
    Encoded,
    Stepped,
    config_from_state_dict,
)
from resonnx_export.networks.detect import (
    CheckpointMismatch,
    architecture_name,
    load_strict,
    resnet_config_from_state_dict,
)
from resonnx_export.networks.resnet import ARCHITECTURES, ResNet, ResNetConfig

__all__ = [
    "ARCHITECTURES",
    "Captioner",
    "CaptionerConfig",
    "CheckpointMismatch",
    "Encoded",
    "ResNet",
    "ResNetConfig",
    "Stepped",
    "architecture_name",
    "config_from_state_dict",
    "load_strict",
    "resnet_config_from_state_dict",
]
