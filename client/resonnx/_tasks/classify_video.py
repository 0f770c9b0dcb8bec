"""Video classifiers: requests and results on the wire, results as text, calls of the load generator."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Final

from resonnx_proto.v1 import manifest_pb2, vision_pb2

from resonnx import _rpcs
from resonnx._messages import message, model_fields, timeout_us, timing
from resonnx._results import Prediction
from resonnx._table import table
from resonnx._tasks.task import Task
from resonnx._video_results import VideoClassification, VideoUpdate


def video_request(
    video: vision_pb2.VideoFrames | bytes,
    model: str,
    *,
    version: int | str | None,
    top_k: int | None,
    priority: int | None,
    answer_within_s: float | None,
) -> vision_pb2.ClassifyVideoRequest:
    """Build a request of frames, or of a clip's file.

    Raises:
        ValueError: A number is out of its field's range, `answer_within_s` is not positive, or a version is
            given twice.
    """
    fields = model_fields(model, version) | {
        "clip" if isinstance(video, bytes) else "frames": video,
        "top_k": top_k or 0,
        "priority": priority,
        "timeout_us": timeout_us(answer_within_s),
    }
    return message(vision_pb2.ClassifyVideoRequest, fields)


def video_classification(response: vision_pb2.ClassifyVideoResponse) -> VideoClassification:
    """Read a response."""
    return VideoClassification(
        model=response.model,
        version=response.version,
        predictions=_predictions(response.predictions),
        frames_read=tuple(response.frames_read),
        timing=timing(response.timing),
    )


def stream_request(
    model: str,
    *,
    version: int | str | None,
    top_k: int | None,
    answer_every: int | None,
    priority: int | None,
    answer_within_s: float | None,
) -> vision_pb2.ClassifyVideoStreamRequest:
    """Build the first request of a stream, without its frame; errors as of `video_request`."""
    fields = model_fields(model, version) | {
        "top_k": top_k or 0,
        "answer_every": answer_every or 0,
        "priority": priority,
        "timeout_us": timeout_us(answer_within_s),
    }
    return message(vision_pb2.ClassifyVideoStreamRequest, fields)


def video_update(response: vision_pb2.ClassifyVideoStreamResponse) -> VideoUpdate:
    """Read a response of a stream."""
    return VideoUpdate(
        model=response.model,
        version=response.version,
        predictions=_predictions(response.predictions),
        frames_read=response.frames_read,
        frame=response.frame,
        is_final=response.is_final,
        timing=timing(response.timing),
    )


def _predictions(predictions: Iterable[vision_pb2.Prediction]) -> tuple[Prediction, ...]:
    return tuple(Prediction(each.label, each.index, each.score) for each in predictions)


def _lines(result: VideoClassification) -> list[str]:
    return table((prediction.label, f"{prediction.score:.2f}") for prediction in result.predictions)


def prediction_json(prediction: Prediction) -> dict[str, Any]:
    """Return a class as a JSON object; classes of videos have no heatmaps."""
    found = asdict(prediction)
    del found["heatmap"], found["heatmap_bias"]
    return found


def _json(result: VideoClassification) -> dict[str, Any]:
    return {"predictions": [prediction_json(each) for each in result.predictions], "frames_read": result.frames_read}


def _rows(manifest: manifest_pb2.Manifest) -> list[tuple[str, str]]:
    spec = manifest.video_classifier
    rule = manifest_pb2.VideoClassifierSpec.Sampling.Rule.Name(spec.sampling.rule).removeprefix("RULE_").lower()
    of_rule = {"every": f" {spec.sampling.n}", "uniform": f" {spec.sampling.n}"}
    if rule == "time":
        of_rule["time"] = f", {spec.sampling.frames_per_second:g} a second"
    live = "answers after each" if spec.states else "answers whole clips"
    return [
        ("labels", str(len(spec.labels))),
        ("frames", f"{rule}{of_rule.get(rule, '')}, at most {spec.max_frames}; {live}"),
    ]


def _of_picture(model: str, image: vision_pb2.Image) -> vision_pb2.ClassifyVideoRequest:
    """Return the request of a clip's file, or of a clip of one frame of raw pixels."""
    video = image.encoded or vision_pb2.VideoFrames(images=[image])
    return video_request(video, model, version=None, top_k=None, priority=None, answer_within_s=None)


CLASSIFY_VIDEO: Final = Task(
    "classify_video",
    "video_classifier",
    result_lines=_lines,
    result_json=_json,
    manifest_rows=_rows,
    path=_rpcs.CLASSIFY_VIDEO.path,
    request=_of_picture,
    input="video",
)
