"""KServe's SDK: its REST client in JSON and binary data, and its gRPC client with raw and typed contents."""

import asyncio

import numpy as np
from checks import PIXELS, Started, X, same, started
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig


def given(name: str, array: np.ndarray, datatype: str, *, binary: bool) -> InferInput:
    tensor = InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


async def rest(told: Started) -> None:
    client, url = InferenceRESTClient(RESTConfig(protocol="v2")), f"http://{told.http}"
    assert await client.is_server_live(url)
    assert await client.is_server_ready(url)
    assert await client.is_model_ready(url, "digits")
    answers = []
    for binary in (True, False):
        request = InferRequest("digits", [given("image", PIXELS, "UINT8", binary=binary)], request_id="k",
                               parameters={"priority": 1})  # fmt: skip
        answer = await client.infer(url, request, model_name="digits", headers={"authorization": "Bearer unused"})
        assert answer.id == "k"
        answers.append({output.name: output.as_numpy() for output in answer.outputs}["logits"])
    same(answers)
    await client.close()


async def grpc(told: Started) -> None:
    client = InferenceGRPCClient(told.grpc)
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("digits")
    answers = [2 * X]
    for binary in (True, False):
        request = InferRequest("doubling", [given("x", X, "FP32", binary=binary)], request_id="k",
                               parameters={"priority": 1, "timeout": 10**7})  # fmt: skip
        answer = await client.infer(request)
        assert answer.id == "k"
        answers.append(answer.outputs[0].as_numpy().astype(np.float32))
    same(answers)
    await client.close()


async def main() -> None:
    told = started()
    await rest(told)
    await grpc(told)
    print("done")


asyncio.run(main())
