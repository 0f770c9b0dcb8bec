"""Checks that the means of a classifier's heatmaps, its class activation maps, are its logits."""

from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.class_activation import FEATURE_MAP, SUM_RTOL, ClassActivation
from resonnx_server.runtime.graphs import IMAGE
from resonnx_server.runtime.model_files.manifest import CLASSIFIER_FILE
from resonnx_server.runtime.pictures.images import Pixels

from resonnx_export.errors import ParityFailed
from resonnx_export.proof.parity import ATOL, open_session


def class_activation(model: bytes, manifest: pb.Manifest) -> ClassActivation | None:
    """Return what a classifier's heatmaps are computed with; None without heatmaps. Raises ParityFailed."""
    if not manifest.classifier.heatmaps.rows:
        return None
    try:
        return ClassActivation.of(model, manifest.classifier)
    except ModelRefused as error:
        raise ParityFailed(str(error)) from None


def check_sums(model: bytes, manifest: pb.Manifest, images: Pixels) -> list[pb.ParityCheck]:
    """Check that the heatmaps of the final graph, whatever its precision, have its logits as their means.

    One check on the pictures uint8 [N,H,W,3]; none for a model without heatmaps. Raises ParityFailed.
    """
    maps = class_activation(model, manifest)
    if maps is None:
        return []
    found = open_session(model).run({IMAGE: images}, [FEATURE_MAP, "logits"])
    scale = float(abs(found["logits"]).max())
    check = pb.ParityCheck(
        name=f"{CLASSIFIER_FILE}, means with the bias: heatmaps",
        pictures=len(images),
        max_abs_difference=maps.deviation(found[FEATURE_MAP], found["logits"]),
        max_abs_reference=scale,
        bound=ATOL + SUM_RTOL * scale,
        identical=len(images),
    )
    if not check.max_abs_difference <= check.bound:
        raise ParityFailed(f"{check.name}: max|difference| {check.max_abs_difference:.3g} exceeds {check.bound:.3g}")
    return [check]


def described(heatmaps: pb.ClassifierSpec.Heatmaps) -> str:
    """Say in a line whether a model has heatmaps."""
    if not heatmaps.rows:
        return f"no heatmaps: {heatmaps.unsupported or 'exported before they existed'}"
    return f"heatmaps of {heatmaps.rows} x {heatmaps.columns} positions, exact: their mean plus the bias is the logit"
