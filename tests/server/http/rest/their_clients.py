"""Run by test_clients.py in an environment of its own: other projects' HTTP clients ask a server and check its answers.

Arguments: the server's address, and a file of pixels, uint8 [2,32,32,3], as NumPy writes it.
"""

import asyncio
import sys

import numpy as np


def tritons(address: str, pixels: np.ndarray) -> None:
    """Ask by tritonclient in all forms of requests and answers."""
    from tritonclient import http
    from tritonclient.utils import InferenceServerException

    client = http.InferenceServerClient(address)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits", "1")
    assert not client.is_model_ready("nope")
    assert client.get_server_metadata()["name"] == "resonnx"
    assert client.get_model_metadata("digits")["inputs"][0]["name"] == "image"
    answers = []
    for is_binary in (True, False):
        given = http.InferInput("image", list(pixels.shape), "UINT8")
        given.set_data_from_numpy(pixels, binary_data=is_binary)
        for packing in (None, "gzip", "deflate"):
            for output in (None, http.InferRequestedOutput("logits", binary_data=not is_binary)):
                answer = client.infer(
                    "digits",
                    [given],
                    outputs=None if output is None else [output],
                    request_id="seven",
                    request_compression_algorithm=packing,
                    response_compression_algorithm=packing,
                )
                assert answer.get_response()["id"] == "seven"
                answers.append(answer.as_numpy("logits"))
        waiting = client.async_infer("digits", [given])
        answers.append(waiting.get_result().as_numpy("logits"))
        best = http.InferRequestedOutput("probabilities", class_count=2)
        assert client.infer("digits", [given], outputs=[best]).as_numpy("probabilities").shape == (2, 2)
    assert {answer.tobytes() for answer in answers} == {answers[0].tobytes()}
    message = ""
    try:
        client.infer("nope", [given])
    except InferenceServerException as error:
        message = error.message()
    assert "not in the repository" in message


async def kserves(address: str, pixels: np.ndarray) -> None:
    """Ask by KServe's SDK, in JSON and binary data."""
    from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

    client, url = InferenceRESTClient(RESTConfig(protocol="v2")), f"http://{address}"
    assert await client.is_server_live(url)
    assert await client.is_server_ready(url)
    assert await client.is_model_ready(url, "digits")
    answers = []
    for is_binary in (True, False):
        given = InferInput("image", list(pixels.shape), "UINT8")
        given.set_data_from_numpy(pixels, binary_data=is_binary)
        answer = await client.infer(url, InferRequest("digits", [given]), model_name="digits")
        answers.append({output.name: output.as_numpy() for output in answer.outputs}["logits"])
    assert np.array_equal(*answers)


if __name__ == "__main__":
    program, where, file = sys.argv[1:]
    if program == "triton":
        tritons(where, np.load(file))
    else:
        asyncio.run(kserves(where, np.load(file)))
    print("done")
