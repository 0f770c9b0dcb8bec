"""pytriton's clients over gRPC and HTTP: waiting, on asyncio and with futures."""

import asyncio

import numpy as np
from checks import PIXELS, Started, X, same, started
from pytriton.client import AsyncioModelClient, FuturesModelClient, ModelClient


def sync(url: str, told: Started) -> None:
    with ModelClient(url, "doubling", lazy_init=False, init_timeout_s=20) as client:
        assert client.is_batching_supported
        assert [given.name for given in client.model_config.inputs] == ["x"]
        same([2 * X, client.infer_batch(X)["y"], client.infer_batch(x=X, parameters={"unknown": 1})["y"]])
        same([2 * X[0], client.infer_sample(X[0])["y"]])
    with ModelClient(url, "digits", "1", inference_timeout_s=20) as client:
        ranked = client.infer_batch(image=PIXELS, headers={"authorization": "Bearer unused"})
        assert ranked["probabilities"].shape == (2, 10)
        file = np.array([told.picture_bytes()], object)
        assert client.infer_batch(encoded_image=file)["logits"].shape == (1, 10)
    scene = np.array([told.scene_bytes()], object)
    with ModelClient(url, "scenes") as client:
        beams = {"beam_width": 2, "num_captions": 2, "max_tokens": 12}
        assert client.infer_batch(encoded_image=scene, parameters=beams)["caption"].shape == (1, 2)


async def on_asyncio(url: str) -> None:
    async with AsyncioModelClient(url, "doubling") as client:
        answers = await asyncio.gather(*(client.infer_batch(X) for _ in range(4)))
        same([2 * X, *(answer["y"] for answer in answers)])


def futures(url: str, workers: int) -> None:
    with FuturesModelClient(url, "doubling", max_workers=workers) as client:
        waiting = [client.infer_sample(X[0]) for _ in range(4)]
        same([2 * X[0], *(each.result(20)["y"] for each in waiting)])


def loads(url: str) -> None:
    with ModelClient(url, "spare", lazy_init=True) as client:
        client.load_model()
        client.wait_for_model(20)
        same([2 * X, client.infer_batch(X)["y"]])
        client.unload_model()


if __name__ == "__main__":
    addresses = started()
    for scheme, address in (("grpc", addresses.grpc), ("http", addresses.http)):
        sync(f"{scheme}://{address}", addresses)
        asyncio.run(on_asyncio(f"{scheme}://{address}"))
    futures(f"http://{addresses.http}", 2)
    # pytriton 0.7.0 makes further workers of the first one's address without its scheme: they use HTTP.
    futures(f"grpc://{addresses.grpc}", 1)
    loads(f"grpc://{addresses.grpc}")
    print("done")
