"""Decides whether a classifier has heatmaps: its class activation maps are exact, and can be compared with PyTorch."""

from typing import Final

from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_export.graphs.class_activation import with_feature_map
from resonnx_export.networks.resnet import ClassifierNetwork
from resonnx_export.pictures.synthetic import check_pictures
from resonnx_export.proof import reference
from resonnx_export.proof.heatmaps import class_activation

_PICTURES: Final = 2
_SEED: Final = 5000
_NO_MODULE: Final = "no module of the network returns its last feature map, which is needed to compare with"


def with_heatmaps(model: bytes, network: ClassifierNetwork, manifest: pb.Manifest) -> bytes:
    """Return a classifier's float32 graph, with its last feature map as an output if its heatmaps are exact.

    Writes that, or the reason, into the manifest.

    Raises:
        ParityFailed: The changed graph is not valid ONNX.
    """
    mapped = with_feature_map(model)
    manifest.classifier.heatmaps.CopyFrom(mapped.heatmaps)
    maps = class_activation(mapped.model, manifest)
    if maps is None:
        return model
    images = check_pictures(manifest.input, _PICTURES, _SEED)
    if reference.classify(network, images, manifest.input, maps=maps).feature_map is not None:
        return mapped.model
    manifest.classifier.heatmaps.CopyFrom(pb.ClassifierSpec.Heatmaps(unsupported=_NO_MODULE))
    return model
