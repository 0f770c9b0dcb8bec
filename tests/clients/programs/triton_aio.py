"""tritonclient.grpc.aio: metadata, inference, streams and the repository."""

import asyncio

import numpy as np
import tritonclient.grpc.aio as triton
from checks import PIXELS, X, same, started


def given(name: str, array: np.ndarray, datatype: str) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


async def main() -> None:
    told = started()
    async with triton.InferenceServerClient(told.grpc) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("doubling", "1")
        assert (await client.get_server_metadata()).name == "resonnx"
        assert (await client.get_model_metadata("doubling")).outputs[0].name == "y"
        assert (await client.get_model_config("doubling")).config.max_batch_size > 0
        answers = await asyncio.gather(*(client.infer("doubling", [given("x", X, "FP32")]) for _ in range(8)))
        same([2 * X, *(answer.as_numpy("y") for answer in answers)])
        best = triton.InferRequestedOutput("probabilities", class_count=3)
        pixels, options = given("image", PIXELS, "UINT8"), {"priority": 1, "timeout": 10**7, "client_timeout": 20}
        ranked = await client.infer("digits", [pixels], outputs=[best], compression_algorithm="gzip", **options)
        assert ranked.as_numpy("probabilities").shape == (2, 3)

        async def asked():
            for i in range(4):
                yield {"model_name": "doubling", "inputs": [given("x", X + i, "FP32")], "request_id": str(i)}

        seen = []
        async for result, error in client.stream_infer(asked()):
            assert error is None
            seen.append(result.get_response().id)
        assert seen == ["0", "1", "2", "3"]
        assert (await client.get_inference_statistics("doubling")).model_stats
        await client.load_model("spare")
        assert {"spare"} <= {model.name for model in (await client.get_model_repository_index()).models}
        await client.unload_model("spare")
        assert (await client.get_trace_settings()).settings
        assert (await client.get_log_settings()).settings
        assert not (await client.get_system_shared_memory_status()).regions
        assert not (await client.get_cuda_shared_memory_status()).regions
    print("done")


asyncio.run(main())
