"""Answers of the task API as JSON objects."""

from typing import Any

from resonnx_proto.v1 import vision_pb2 as pb


def classified(response: pb.ClassifyResponse) -> dict[str, Any]:
    """Return the classes of a picture, best first: label, index, the probability as `score`, and a heatmap."""
    body = {**_about(response), "predictions": [_prediction(each) for each in response.predictions]}
    if response.heatmap_rows:
        area = response.heatmap_area
        body |= {"heatmap_rows": response.heatmap_rows, "heatmap_columns": response.heatmap_columns}
        body["heatmap_area"] = {side: getattr(area, side) for side in ("left", "top", "right", "bottom")}
    if response.features:
        body["features"] = list(response.features)
    return {**body, "timing": _timing(response.timing)}


def captioned(response: pb.CaptionResponse) -> dict[str, Any]:
    """Return the captions of a picture, best first. The seed is a string, as JavaScript has no such numbers."""
    body = {**_about(response), "captions": [_caption(each) for each in response.captions]}
    if response.HasField("seed"):
        body["seed"] = str(response.seed)
    if response.attention_rows:
        body |= {"attention_rows": response.attention_rows, "attention_columns": response.attention_columns}
    return {**body, "timing": _timing(response.timing)}


def watched(response: pb.ClassifyVideoResponse) -> dict[str, Any]:
    """Return the classes of a clip, best first, as of a picture, and the indices of the frames that were read."""
    predictions = [_prediction(each) for each in response.predictions]
    body = {**_about(response), "predictions": predictions, "frames_read": list(response.frames_read)}
    return {**body, "timing": _timing(response.timing)}


def _prediction(given: pb.Prediction) -> dict[str, Any]:
    body: dict[str, Any] = {"label": given.label, "index": given.index, "score": given.score}
    if given.heatmap:
        body |= {"heatmap": list(given.heatmap), "heatmap_bias": given.heatmap_bias}
    return body


def word(given: pb.Word) -> dict[str, Any]:
    """Return a word of a caption."""
    body: dict[str, Any] = {"text": given.text, "log_prob": given.log_prob}
    if given.attention:
        body["attention"] = list(given.attention)
    return body


def _caption(given: pb.Caption) -> dict[str, Any]:
    words = [word(each) for each in given.words]
    return {"text": given.text, "log_prob": given.log_prob, "score": given.score, "words": words}


def _about(response: pb.ClassifyResponse | pb.CaptionResponse | pb.ClassifyVideoResponse) -> dict[str, Any]:
    body: dict[str, Any] = {"model": response.model, "version": response.version}
    if response.id:
        body["id"] = response.id
    return body


def _timing(timing: pb.Timing) -> dict[str, int]:
    return {
        "decode_us": timing.decode_us,
        "queue_us": timing.queue_us,
        "compute_us": timing.compute_us,
        "batch_size": timing.batch_size,
    }
