"""tritonclient.http: metadata, and inference in JSON and binary data, packed and unpacked."""

import numpy as np
from checks import PIXELS, X, same, started
from tritonclient import http
from tritonclient.utils import InferenceServerException


def main() -> None:
    told = started()
    client = http.InferenceServerClient(told.http)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "1")
    assert not client.is_model_ready("nope")
    assert client.get_server_metadata()["name"] == "resonnx"
    assert client.get_model_metadata("digits")["inputs"][0]["name"] == "image"
    assert client.get_model_metadata("digits", "1")["versions"] == ["1"]
    assert client.get_model_config("doubling")["input"][0]["dims"] == [3]
    assert client.get_model_config("doubling", "1")["name"] == "doubling"
    for asked in ({}, {"model_name": "digits"}, {"model_name": "digits", "model_version": "1"}):
        found = client.get_inference_statistics(**asked)["model_stats"]
        assert ("digits", "1") in {(each["name"], each["version"]) for each in found}
    index = client.get_model_repository_index()
    assert {"name": "digits", "version": "1", "state": "READY"} in index
    answers = []
    for is_binary in (True, False):
        given = http.InferInput("image", list(PIXELS.shape), "UINT8")
        given.set_data_from_numpy(PIXELS, binary_data=is_binary)
        for packing in (None, "gzip", "deflate"):
            for output in (None, http.InferRequestedOutput("logits", binary_data=not is_binary)):
                answer = client.infer(
                    "digits",
                    [given],
                    model_version="1",
                    outputs=None if output is None else [output],
                    request_id="seven",
                    priority=1,
                    timeout=10**7,
                    request_compression_algorithm=packing,
                    response_compression_algorithm=packing,
                )
                assert answer.get_response()["id"] == "seven"
                answers.append(answer.as_numpy("logits"))
        waiting = client.async_infer("digits", [given])
        answers.append(waiting.get_result().as_numpy("logits"))
        best = http.InferRequestedOutput("probabilities", class_count=2)
        assert client.infer("digits", [given], outputs=[best]).as_numpy("probabilities").shape == (2, 2)
    same(answers)
    rows = http.InferInput("x", list(X.shape), "FP32")
    rows.set_data_from_numpy(X)
    same([2 * X, client.infer("doubling", [rows], headers={"authorization": "Bearer unused"}).as_numpy("y")])
    scene = http.InferInput("image", [1], "BYTES")
    scene.set_data_from_numpy(np.array([told.scene_bytes()], object))
    for options in (
        {"beam_width": 3, "num_captions": 2, "min_tokens": 2, "max_tokens": 12},
        {"temperature": 0.8, "seed": 3},
    ):
        assert client.infer("scenes", [scene], parameters=options).as_numpy("caption").size
    message = ""
    try:
        client.infer("nope", [rows])
    except InferenceServerException as error:
        message = error.message()
    assert "not in the repository" in message
    print("done")


main()
