"""Requests of all kinds, of callers with keys, that a client counts."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from resonnx_proto.inference import grpc_service_pb2 as pb

from .....conftest import RunningServer
from ....http.rest.asking_http import Answered, ask
from .counting import LOOPS, NOBODY, Counting, credentials, looping, picture_request, request, until

X = np.ones((2, 3), np.float32)


@dataclass
class Guarded(RunningServer):
    """A server whose pages are read with a key."""

    key: str = ""

    def get(self, path: str, key: str | None = None) -> tuple[int, str]:
        return super().get(path, key or self.key)


def key_of(name: str) -> str:
    """Return a caller's key: its name, and 20 letters."""
    return name + "x" * 20


class Mix:
    """Requests of all kinds: a method for each."""

    def __init__(self, client: Counting, segment: str, picture: bytes) -> None:
        self.client, self.segment, self.picture = client, segment, picture

    def priorities(self) -> None:
        for priority in (1, 3, 8, 9):
            reason = self.client.ask(request("doubling", X, priority=priority), stream=priority == 3)
            assert reason == ("INVALID_INPUT" if priority == 9 else "")
        assert self.client.ask(request("doubling", X, priority=1), key=key_of("plain")) == "PRIORITY_NOT_ALLOWED"

    def callers(self) -> None:
        ask = self.client.ask
        assert ask(request("picky", X), known=False, key=key_of("plain")) == "MODEL_NOT_ALLOWED"
        assert ask(request("doubling", X), known=False, key="unknown" * 4) == "KEY_UNKNOWN"
        assert ask(request("doubling", X), known=False, key="") == "KEY_MISSING"

    def rate(self) -> None:
        for stream in (False, True):
            assert self.client.ask(request("doubling", X), stream, known=False, key=key_of("slow")) == "RATE_LIMITED"

    def while_one_runs(self) -> None:
        """Too many at a time, a full queue, and callers that leave: a call that waits, and one that runs."""

        def steps() -> None:
            # The run before may not have ended.
            self._until_none_waits()
            for stream in (False, True):
                reason = self.client.ask(request("doubling", X), stream, known=False, key=key_of("narrow"))
                assert reason == "RATE_LIMITED"
            self._full_queue()
            self._leave()

        self.client.cancel(steps, key_of("narrow"))

    def _until_none_waits(self) -> None:
        until(lambda: not self.client.server.metric("nv_inference_pending_request_count", model="loops"))

    def _full_queue(self) -> None:
        waiting = self.client.stub.ModelInfer.future(looping(), metadata=credentials(key_of("all")))
        until(lambda: self.client.server.metric("nv_inference_pending_request_count", model="loops"))
        assert self.client.ask(looping()) == "QUEUE_FULL"
        assert waiting.cancel()
        self.client.count("loops", "CANCELLED")
        self._until_none_waits()

    def _leave(self) -> None:
        """A caller of the HTTP port leaves while its request waits."""
        body = json.dumps({"inputs": [{"name": "times", "shape": [1], "datatype": "INT64", "data": [LOOPS]}]})
        with self._open("", len(body)) as leaving:
            leaving.sendall(body.encode())
            until(lambda: self.client.server.metric("nv_inference_pending_request_count", model="loops"))
        self.client.count("loops", "CANCELLED")
        self._until_none_waits()

    def memory(self) -> None:
        wide = request("hoards", np.ones((1, 250_000), np.float32))
        with ThreadPoolExecutor(16) as threads:
            reasons = [*threads.map(lambda _: self.client.ask(wide), range(24))]
        assert "MEMORY_SPENT" in reasons

    def shared_memory(self) -> None:
        def asked(region: str, size: int, output: str = "", room: int = 0) -> pb.ModelInferRequest:
            given = request("doubling", X)
            given.ClearField("raw_input_contents")
            _place(given.inputs[0], region, size)
            if output:
                _place(given.outputs.add(name="y"), output, room)
            return given

        ask = self.client.ask
        assert ask(asked(self.segment, X.nbytes, self.segment, X.nbytes)) == ""
        for bad in (asked("nobody", X.nbytes), asked(self.segment, X.nbytes, "nobody", X.nbytes)):
            assert ask(bad) == "REGION_NOT_FOUND"
        for bad in (asked(self.segment, 1 << 20), asked(self.segment, 8)):
            assert ask(bad) == "INVALID_INPUT"
        assert ask(asked(self.segment, X.nbytes, self.segment, 8)) == "INVALID_INPUT"
        # Known only when it has run.
        with self.client.lock:
            self.client.rows["doubling"] += len(X)
        with (
            pytest.raises(triton.InferenceServerException),
            triton.InferenceServerClient(str(self.client.server.admin)) as admin,
        ):
            admin.get_system_shared_memory_status("nobody", headers=dict(credentials(key_of("all"))))
        self.client.count(NOBODY, "REGION_NOT_FOUND")

    def rest_tensors(self) -> None:
        tensor = {"name": "x", "shape": X.shape, "datatype": "FP32", "data": X.ravel().tolist()}
        body = {"inputs": [tensor]}
        self._post("doubling", body)
        self._post("doubling", body | {"parameters": {"priority": 8}})
        head = json.dumps({"inputs": [_without(tensor, "data") | {"parameters": {"binary_data_size": X.nbytes}}]})
        size = {"Inference_Header_Content_Length": str(len(head))}
        self._post("doubling", head.encode() + X.tobytes(), **size)
        self._post("doubling", head.encode() + X.tobytes()[:4], "INVALID_INPUT", known=False, **size)
        self._post("doubling", {"inputs": [tensor | {"shape": [3, 2]}]}, "INVALID_INPUT")
        self._post("doubling", body | {"parameters": {"priority": 9}}, "INVALID_INPUT")
        self._post("doubling", b"{", "MESSAGE_UNREADABLE", known=False)
        self._post("doubling", bytes(1_048_577), "MESSAGE_TOO_LARGE", known=False)
        self._post("doubling", body, "NOT_SUPPORTED", known=False, Content_Encoding="br")
        self._post("doubling", body, "INVALID_INPUT", known=False, Grpc_Timeout="soon")
        self._post("nobody", body, "MODEL_NOT_FOUND", known=False)
        self._post("doubling/versions/7", body, "MODEL_NOT_FOUND", known=False, told="VERSION_NOT_FOUND")
        self._post("doubling", body, "KEY_MISSING", known=False, key="")
        self._post("doubling", body, "RATE_LIMITED", known=False, key=key_of("slow"))
        self._post(
            "picky", {"inputs": [tensor | {"datatype": "INT64", "shape": [1, 1], "data": [3]}]}, "INFERENCE_FAILED"
        )

    def rest_late(self) -> None:
        """A deadline that passes before the body is there."""
        with self._open("Grpc-Timeout: 20m\r\n", 50) as late:
            assert b"DEADLINE_EXCEEDED" in late.recv(4096)
        self.client.count(NOBODY, "DEADLINE_EXCEEDED")

    def pictures(self) -> None:
        self.client.ask(picture_request("digits", self.picture), stream=True)
        assert self.client.ask(picture_request("digits", b"junk")) == "BAD_IMAGE"
        self._post("/v1/classify/digits", self.picture)
        self._post("/v1/classify/digits?top_k=99", self.picture, "INVALID_INPUT")
        self._post("/v1/classify/digits?top_k=few", self.picture, "INVALID_INPUT", known=False)
        self._post("/v1/classify/digits", b"junk", "BAD_IMAGE")
        self._post("/v1/caption/digits", self.picture, "INVALID_INPUT", known=False, told="WRONG_TASK")
        parts = [
            b'--b\r\nContent-Disposition: form-data; name="p"; filename="%d"\r\n\r\n%s\r\n' % (number, content)
            for number, content in enumerate((self.picture, b"junk", self.picture))
        ]
        form = b"".join(parts) + b"--b--\r\n"
        answer = self._ask("/v1/classify/digits", form, key_of("all"), Content_Type="multipart/form-data; boundary=b")
        for each in answer.json["pictures"]:
            self.client.count("digits", each.get("reason", ""))
        assert self.client.failures["digits", "BAD_IMAGE"]

    def _post(
        self,
        model: str,
        body: bytes | dict[str, Any],
        reason: str = "",
        *,
        known: bool = True,
        told: str = "",
        key: str | None = None,
        **headers: str,
    ) -> None:
        path = model if model.startswith("/") else f"/v2/models/{model}/infer"
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = self._ask(path, content, key_of("all") if key is None else key, **headers)
        assert (answer.json["reason"] if answer.status != 200 else "") == reason, answer.body
        rows = 1 if path.startswith("/v1") else len(X)
        name = "digits" if path.startswith("/v1") else model
        self.client.count(name if known else NOBODY, told or reason, rows)

    def _ask(self, path: str, body: bytes, key: str, **headers: str) -> Answered:
        return ask(self.client.server.http, path, body, **{**headers, **dict(_header(key))})

    def _open(self, headers: str, size: int) -> socket.socket:
        host, port = self.client.server.http.rsplit(":", 1)
        connection = socket.create_connection((host, int(port)), timeout=30)
        head = f"POST /v2/models/loops/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n{headers}"
        connection.sendall(f"{head}Authorization: Bearer {key_of('all')}\r\n\r\n".encode())
        return connection


# `memory` takes what the others need.
KINDS = [name for name in vars(Mix) if not name.startswith("_") and name != "memory"]


def _header(key: str) -> Iterator[tuple[str, str]]:
    if key:
        yield "Authorization", f"Bearer {key}"


def _without(tensor: dict[str, Any], field: str) -> dict[str, Any]:
    return {key: value for key, value in tensor.items() if key != field}


def _place(tensor: Any, region: str, size: int) -> None:
    tensor.parameters["shared_memory_region"].string_param = region
    tensor.parameters["shared_memory_byte_size"].int64_param = size
