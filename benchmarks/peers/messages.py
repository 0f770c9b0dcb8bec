"""Requests of one picture: bytes of HTTP or messages of gRPC, made before anything is timed, and what answers say.

    http://HOST:PORT/PATH           a form with the file, as browsers and `requests` upload it
    http://HOST:PORT/…/infer        the Open Inference Protocol by HTTP: a JSON head, then the tensor's bytes
    classify://HOST:PORT/MODEL      resonnx.v1.Vision/Classify: the file
    infer://HOST:PORT/MODEL/INPUT   the Open Inference Protocol by gRPC: the input's bytes

A picture is a JPEG file, or the uint8 pixels of a square [H,H,3]. By the last one a file is a BYTES tensor [1,1].
"""

import json
import math
import struct
from http.client import HTTPConnection
from typing import Any, Final
from urllib.parse import urlsplit

import grpc
import numpy as np
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc

_JPEG: Final = b"\xff\xd8"
_BOUNDARY: Final = "----picture"
_ENDLESS_S: Final = 30.0
_OUTPUT: Final = "probabilities"
_BEST: Final = 5


def post(url: str, picture: bytes) -> bytes:
    """Return the whole HTTP request."""
    parts = urlsplit(url)
    content, headers = _body(url, picture)
    lines = [f"POST {url.partition(parts.netloc)[2]} HTTP/1.1", f"Host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, f"Content-Length: {len(content)}", "", ""]).encode() + content


def message(url: str, picture: bytes) -> Any:
    """Return the gRPC message of classify:// or infer://."""
    parts = urlsplit(url)
    model, _, name = parts.path.removeprefix("/").partition("/")
    if parts.scheme == "classify":
        return vision_pb2.ClassifyRequest(model=model, image=vision_pb2.Image(encoded=picture))
    asked = pb.ModelInferRequest(model_name=model)
    pixels = _is_pixels(picture)
    asked.inputs.add(name=name, datatype="UINT8" if pixels else "BYTES", shape=_shape(picture))
    asked.outputs.add(name=_OUTPUT)
    asked.raw_input_contents.append(picture if pixels else struct.pack("<I", len(picture)) + picture)
    return asked


def stub_call(url: str, channel: Any) -> Any:
    """Return the method of a channel, blocking or of grpc.aio, that takes `message(url, …)`."""
    if url.startswith("classify:"):
        return vision_pb2_grpc.VisionStub(channel).Classify
    return grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer


def ask(url: str, picture: bytes) -> dict[str, Any]:
    """Send one picture and return the answer as JSON has it; of infer:// {"probabilities": […]}.

    Raises OSError or grpc.RpcError without a server, RuntimeError for a refusal.
    """
    parts = urlsplit(url)
    if parts.scheme != "http":
        with grpc.insecure_channel(parts.netloc) as channel:
            answer = stub_call(url, channel)(message(url, picture), timeout=_ENDLESS_S)
        if parts.scheme == "classify":
            return {"predictions": [{"label": one.label, "score": one.score} for one in answer.predictions]}
        return {_OUTPUT: _floats(answer)}
    connection = HTTPConnection(parts.netloc, timeout=_ENDLESS_S)
    try:
        content, headers = _body(url, picture)
        connection.request("POST", url.partition(parts.netloc)[2], content, headers)
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise RuntimeError(f"{url}: {answer.status} {body[:300]!r}")
    found = json.loads(body)
    if parts.path.endswith("/infer"):
        return {_OUTPUT: found["outputs"][0]["data"]}
    # resonnx answers a form of several pictures, BentoML a batch.
    answers: list[dict[str, Any]] = found if isinstance(found, list) else found.get("pictures", [found])
    return answers[0]


def predictions(answer: dict[str, Any], labels: list[str]) -> list[tuple[str, float]]:
    """Return the five best labels and their probabilities, best first, of an answer of `ask`."""
    if _OUTPUT not in answer:
        return [(one["label"], one["score"]) for one in answer["predictions"]]
    row = np.asarray(answer[_OUTPUT]).ravel()
    return [(labels[index], float(row[index])) for index in np.argsort(-row)[:_BEST]]


def _floats(answer: pb.ModelInferResponse) -> list[float]:
    """Return the output's values: raw, or as MLServer has them."""
    if answer.raw_output_contents:
        return list(map(float, np.frombuffer(answer.raw_output_contents[0], np.float32)))
    return list(answer.outputs[0].contents.fp32_contents)


def _is_pixels(picture: bytes) -> bool:
    return not picture.startswith(_JPEG)


def _shape(picture: bytes) -> list[int]:
    side = math.isqrt(len(picture) // 3)
    return [1, side, side, 3] if _is_pixels(picture) else [1, 1]


def _body(url: str, picture: bytes) -> tuple[bytes, dict[str, str]]:
    """Return the body of an HTTP request, and its headers."""
    if urlsplit(url).path.endswith("/infer"):
        tensor = {"name": "image", "datatype": "UINT8", "shape": _shape(picture)}
        sizes = {"parameters": {"binary_data_size": len(picture)}}
        head = json.dumps({"inputs": [tensor | sizes], "outputs": [{"name": _OUTPUT}]}).encode()
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
        return head + picture, headers
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="picture.jpg"\r\n'.encode()
    content = head + b"Content-Type: image/jpeg\r\n\r\n" + picture + f"\r\n--{_BOUNDARY}--\r\n".encode()
    return content, {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
