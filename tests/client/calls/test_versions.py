"""Which version is asked: in the model's name, or as an argument; a number or a label."""

from typing import Any

import pytest
from grpc_health.v1 import health_pb2
from resonnx._rpcs import VISION
from resonnx_proto.inference import grpc_service_pb2 as inference_pb2
from resonnx_proto.v1 import vision_pb2

CASES = [
    (("digits", None), ("digits", 0, "")),
    (("digits", 0), ("digits", 0, "")),
    (("digits", 3), ("digits", 3, "")),
    (("digits", "3"), ("digits", 3, "")),
    (("digits", "canary"), ("digits", 0, "canary")),
    (("digits:3", None), ("digits", 3, "")),
    (("digits:canary", None), ("digits", 0, "canary")),
]


@pytest.mark.parametrize(("asked", "sent"), CASES)
@pytest.mark.parametrize("method", ["classify", "caption", "stream_caption", "classify_stream", "model"])
def test_a_version_is_named_in_each_call(call, vision, answer, sentence, method: str, asked: Any, sent: Any) -> None:
    seen = []

    def each(requests, context):
        for request in requests:
            seen.append(request)
            yield vision_pb2.ClassifyStreamResponse(id=request.id, response=answer)

    vision.script["Classify"] = lambda request, context: answer
    vision.script["ClassifyStream"] = each
    vision.script["Caption"] = lambda request, context: sentence
    vision.script["StreamCaption"] = lambda request, context: iter([vision_pb2.StreamCaptionResponse(final=sentence)])
    vision.script["GetModel"] = lambda request, context: vision_pb2.GetModelResponse()
    model, version = asked
    pictures = {"model": (), "classify_stream": ([b"png"],)}.get(method, (b"png",))
    call(method, *pictures, model, version=version)
    (request,) = vision.requests + seen
    assert (request.model, request.version, request.version_label) == sent


@pytest.mark.parametrize(("asked", "sent"), CASES)
def test_health_is_that_of_the_version(call, vision, asked: Any, sent: Any) -> None:
    vision.script["Check"] = lambda request, context: health_pb2.HealthCheckResponse(status="SERVING")
    assert call("health", *asked) == "serving"
    name, number, label = sent
    version = f":{number or label}" if number or label else ""
    assert vision.requests[0].service == f"{VISION}/{name}{version}"


@pytest.mark.parametrize(
    ("model", "version", "told"),
    [
        ("digits:3", 4, "model 'digits:3' names a version, and version is 4: give one of them"),
        ("digits:3", "canary", "give one of them"),
        ("digits:", None, "model 'digits:': give NAME, NAME:VERSION or NAME:LABEL"),
        (":3", None, "give NAME, NAME:VERSION or NAME:LABEL"),
    ],
)
@pytest.mark.parametrize("method", ["classify", "caption", "stream_caption", "model", "health"])
def test_a_version_that_is_given_twice_or_not_at_all_is_told(call, vision, method: str, model, version, told) -> None:
    pictures = (b"png",) if method in ("classify", "caption", "stream_caption") else ()
    with pytest.raises(ValueError, match=told):
        call(method, *pictures, model, version=version)
    assert vision.requests == []


def test_a_server_has_no_version(call) -> None:
    with pytest.raises(ValueError, match="version 3 is given without a model"):
        call("health", version=3)


def test_the_repository_is_listed_loaded_and_unloaded(call, vision) -> None:
    index = inference_pb2.RepositoryIndexResponse()
    index.models.add(name="digits", version="3", state="READY")
    index.models.add(name="scenes", version="1", state="UNAVAILABLE", reason="damaged")
    vision.script["RepositoryIndex"] = lambda request, context: index
    vision.script["RepositoryModelLoad"] = lambda request, context: inference_pb2.RepositoryModelLoadResponse()
    vision.script["RepositoryModelUnload"] = lambda request, context: inference_pb2.RepositoryModelUnloadResponse()
    rows = [(it.name, it.version, it.state, it.reason) for it in call("repository", ready=True)]
    assert rows == [("digits", "3", "ready", ""), ("scenes", "1", "unavailable", "damaged")]
    assert call("load", "digits") is None
    assert call("unload", "scenes") is None
    listed, loaded, unloaded = vision.requests
    assert listed.ready
    assert (loaded.model_name, unloaded.model_name) == ("digits", "scenes")


def test_health_is_watched(call, vision) -> None:
    kinds = health_pb2.HealthCheckResponse
    vision.script["Watch"] = lambda request, context: iter(
        [kinds(status="SERVICE_UNKNOWN"), kinds(status="SERVING"), kinds(status="NOT_SERVING")]
    )
    assert call("watch_health", "digits") == ["unknown", "serving", "not_serving"]
