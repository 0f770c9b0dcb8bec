"""tritonclient over TLS with a certificate and a key of its own: gRPC, streams, asyncio and HTTP."""

import asyncio
import json
import queue
import sys

import tritonclient.grpc as triton
from checks import X, same
from tritonclient import http
from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException

TOLD = json.loads(sys.argv[1])
HEADERS = {"authorization": f"Bearer {TOLD['key']}"}
FILES = {"root_certificates": TOLD["ca"], "private_key": TOLD["private"], "certificate_chain": TOLD["certificate"]}


def given(module) -> list:
    tensor = module.InferInput("x", list(X.shape), "FP32")
    tensor.set_data_from_numpy(X)
    return [tensor]


def refused(call, *arguments) -> str:
    try:
        call(*arguments)
    except InferenceServerException as error:
        return f"{error.status()} {error.message()}"
    raise AssertionError("a call without a key is not refused")


def over_grpc() -> None:
    with triton.InferenceServerClient(TOLD["grpc"], ssl=True, **FILES) as client:
        assert client.is_server_live(headers=HEADERS)
        assert client.get_model_metadata("doubling", headers=HEADERS).name == "doubling"
        same([2 * X, client.infer("doubling", given(triton), headers=HEADERS).as_numpy("y")])
        answers: queue.Queue = queue.Queue()
        client.start_stream(lambda result, error: answers.put(error or result.as_numpy("y")), headers=HEADERS)
        client.async_stream_infer("doubling", given(triton))
        same([2 * X, answers.get(timeout=20)])
        client.stop_stream()
        assert "UNAUTHENTICATED" in refused(client.infer, "doubling", given(triton))


async def on_asyncio() -> None:
    async with aio.InferenceServerClient(TOLD["grpc"], ssl=True, **FILES) as client:
        same([2 * X, (await client.infer("doubling", given(aio), headers=HEADERS)).as_numpy("y")])


def over_http() -> None:
    files = {"ca_certs": TOLD["ca"], "keyfile": TOLD["private"], "certfile": TOLD["certificate"]}
    client = http.InferenceServerClient(TOLD["http"], ssl=True, ssl_options=files)
    assert client.is_server_live()
    assert client.get_model_metadata("doubling", headers=HEADERS)["name"] == "doubling"
    same([2 * X, client.infer("doubling", given(http), headers=HEADERS).as_numpy("y")])
    assert "key" in refused(client.infer, "doubling", given(http))
    client.update_log_settings({"log_verbose_level": 1}, headers=HEADERS)
    assert client.get_log_settings(headers=HEADERS)["log_verbose_level"] == 1
    client.close()
    client = http.InferenceServerClient(TOLD["http"], ssl=True)
    try:
        client.is_server_live()
    except OSError:
        pass
    else:
        raise AssertionError("a server that no authority vouches for is trusted")


if __name__ == "__main__":
    over_grpc()
    asyncio.run(on_asyncio())
    over_http()
    print("done")
