"""Tells what is wrong with the part of a manifest that describes a classifier or a captioner."""

from typing import Final

from resonnx_proto.v1 import manifest_pb2 as pb

# Largest beam width: the next tokens of all beams are among the top-k.
MAX_BEAM_WIDTH: Final = 10


def classifier_fault(manifest: pb.Manifest) -> str | None:
    """Return what is wrong with a classifier's message, naming the field; None if nothing is."""
    if not manifest.HasField("classifier") or not manifest.classifier.labels:
        return "classifier.labels is empty"
    maps = manifest.classifier.heatmaps
    if (maps.rows > 0) != (maps.columns > 0):
        return "classifier.heatmaps has rows or columns only"
    if maps.rows and maps.unsupported:
        return "classifier.heatmaps has a grid, and is unsupported"
    return None


def captioner_fault(manifest: pb.Manifest) -> str | None:
    """Return what is wrong with a captioner's message, naming the field; None if nothing is."""
    if not manifest.HasField("captioner"):
        return "captioner is missing"
    spec = manifest.captioner
    size = len(spec.vocabulary)
    if size == 0:
        return "captioner.vocabulary is empty"
    ids = {"end_id": spec.end_id}
    for field in ("start_id", "pad_id", "unknown_id"):
        if spec.HasField(field):
            ids[field] = getattr(spec, field)
    for field in ("stripped_ids", "beam_forbidden_ids"):
        ids.update({f"{field}[{i}]": token for i, token in enumerate(getattr(spec, field))})
    for field, token in ids.items():
        if token >= size:
            return f"captioner.{field} {token} is not below the vocabulary's size {size}"
    left = size - len({spec.end_id, *spec.beam_forbidden_ids})
    if spec.end_id in spec.beam_forbidden_ids or left <= 0:
        return "captioner.beam_forbidden_ids leaves no captions"
    if not 1 <= spec.max_tokens <= 1000:
        return f"captioner.max_tokens {spec.max_tokens} is not within 1..1000"
    if spec.beam_width > MAX_BEAM_WIDTH:
        return f"captioner.beam_width {spec.beam_width} is not within 0..{MAX_BEAM_WIDTH}"
    return None
