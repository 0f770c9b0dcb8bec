"""What the tests of the REST side share: requests of HTTP, and tensors in both forms."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Answered:
    """An answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, or its beginning before binary data."""
        size = self.headers.get("Inference-Header-Content-Length")
        return json.loads(self.body if size is None else self.body[: int(size)])

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the outputs by name."""
        position = int(self.headers.get("Inference-Header-Content-Length", len(self.body)))
        found = {}
        for output in self.json["outputs"]:
            dtype = {"FP32": "<f4", "FP64": "<f8", "FP16": "<f2", "BOOL": "?", "BYTES": "O"}.get(output["datatype"])
            dtype = dtype or output["datatype"].lower()
            size = output.get("parameters", {}).get("binary_data_size")
            if size is None:
                array = np.array(output["data"], dtype)
            else:
                assert dtype != "O"
                array = np.frombuffer(self.body[position : position + size], dtype)
                position += size
            found[output["name"]] = array.reshape(output["shape"])
        return found


def ask(address: str, path: str, body: bytes | None = None, **headers: str) -> Answered:
    """GET a page, or POST a body to it. Headers are given with `_` for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://{address}{path}", data=body, headers=named)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return Answered(response.status, dict(response.headers), response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answered(error.code, dict(error.headers), error.read())


def infer_json(address: str, model: str, *inputs: dict[str, Any], **more: Any) -> Answered:
    """Ask for an inference, all in JSON."""
    return ask(address, f"/v2/models/{model}/infer", json.dumps({"inputs": inputs, **more}).encode())


def infer_binary(address: str, model: str, name: str, array: np.ndarray, datatype: str, **more: Any) -> Answered:
    """Ask for an inference with an input, and all outputs, as binary data."""
    raw = array.tobytes()
    given = {"name": name, "datatype": datatype, "shape": array.shape, "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}, **more}).encode()
    size = {"Inference_Header_Content_Length": str(len(head))}
    return ask(address, f"/v2/models/{model}/infer", head + raw, **size)
