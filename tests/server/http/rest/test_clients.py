"""Requests as MLServer's client writes them; tests/clients has the clients themselves."""

import numpy as np

from .asking_http import infer_json


def test_requests_as_mlserver_writes_them(demo_server) -> None:
    """With content types, and null where a field has no value."""
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    given = {"name": "image", "shape": [1, 32, 32, 3], "datatype": "UINT8", "parameters": {"content_type": "np"}}
    nothing = {"id": None, "parameters": {"content_type": "np", "headers": None}, "outputs": None}
    answer = infer_json(demo_server.http, "digits", {**given, "data": pixels.ravel().tolist()}, **nothing)
    assert answer.status == 200, answer.json
    assert answer.arrays()["logits"].shape == (1, 10)
