"""tritonclient.grpc: all of its methods, with all datatypes and parameters."""

import queue

import ml_dtypes
import numpy as np
import tritonclient.grpc as triton
import tritonclient.utils.shared_memory as shm
from checks import PIXELS, X, same, started
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, serialize_byte_tensor

TYPES = (bool, np.uint8, np.uint16, np.uint32, np.uint64, np.int8, np.int16, np.int32, np.int64, np.float16,
         np.float32, np.float64)  # fmt: skip


def given(name: str, array: np.ndarray, datatype: str | None = None) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), datatype or np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return tensor


def refusal(call, *arguments, **options) -> str:
    try:
        call(*arguments, **options)
    except InferenceServerException as error:
        return str(error.status()).removeprefix("StatusCode.")
    raise AssertionError(f"{call.__name__} is not refused")


def health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits", "1")
    assert not client.is_model_ready("nope")
    server = client.get_server_metadata()
    assert server.name == "resonnx"
    assert {"classification", "system_shared_memory", "model_repository", "trace", "logging"} <= {*server.extensions}
    assert client.get_model_metadata("doubling", "1").inputs[0].shape == [-1, 3]
    assert client.get_model_config("doubling", "1").config.input[0].dims == [3]
    assert client.get_model_metadata("digits", as_json=True)["name"] == "digits"


def infers(client: triton.InferenceServerClient, picture: bytes, label: str) -> None:
    answers = [
        client.infer("doubling", [given("x", X)], request_id="7", model_version=version, priority=priority,
                     timeout=10_000_000, client_timeout=20, outputs=outputs, compression_algorithm=packing,
                     headers={"authorization": "Bearer unused"}, parameters={"unknown": 1})
        for version in ("", "1", "canary")
        for priority, outputs, packing in ((0, None, None), (1, [triton.InferRequestedOutput("y")], "gzip"))
    ]  # fmt: skip
    assert {answer.get_response().id for answer in answers} == {"7"}
    same([2 * X, *(answer.as_numpy("y") for answer in answers)])
    best = triton.InferRequestedOutput("probabilities", class_count=2)
    file = given("image", np.array([picture], object))
    ranked = client.infer("digits", [file], outputs=[best]).as_numpy("probabilities")
    assert ranked.shape == (1, 2)
    assert ranked[0, 0].decode().endswith(f":{label}")
    assert client.infer("digits", [given("image", PIXELS)]).as_numpy("logits").shape == (2, 10)
    waiting: queue.Queue = queue.Queue()
    client.async_infer("doubling", [given("x", X)], lambda result, error: waiting.put(error or result.as_numpy("y")))
    same([2 * X, waiting.get(timeout=20)])
    assert refusal(client.infer, "nope", [given("x", X)]) == "NOT_FOUND"
    assert refusal(client.infer, "doubling", [given("x", X[:, :2])]) == "INVALID_ARGUMENT"


def datatypes(client: triton.InferenceServerClient) -> None:
    """Each comes back from a model that returns what it gets."""
    for kind in TYPES:
        array = np.array([[0, 1, 100]]).astype(kind)
        name = f"identity_{np_to_triton_dtype(array.dtype).lower()}"
        same([array, client.infer(name, [given("x", array)]).as_numpy("y")])
    text = np.array([["one", "", "ü"]], object)
    assert client.infer("identity_bytes", [given("x", text)]).as_numpy("y").tolist() == [[b"one", b"", "ü".encode()]]
    halves = X.astype(ml_dtypes.bfloat16)
    same([halves, client.infer("identity_bf16", [given("x", halves, "BF16")]).as_numpy("y")])


def captions(client: triton.InferenceServerClient, scene: bytes) -> None:
    file = given("image", np.array([scene], object))
    beams = {"beam_width": 3, "num_captions": 2, "min_tokens": 2, "max_tokens": 12}
    assert client.infer("scenes", [file], parameters=beams).as_numpy("caption").shape == (1, 2)
    sampled = [
        client.infer("scenes", [file], parameters={"temperature": 0.8, "seed": 3}).as_numpy("caption").item()
        for _ in range(2)
    ]
    assert sampled[0] == sampled[1]


def streams(client: triton.InferenceServerClient, scene: bytes) -> None:
    answers: queue.Queue = queue.Queue()
    client.start_stream(lambda result, error: answers.put(error or result))
    for i in range(3):
        client.async_stream_infer("doubling", [given("x", X + i)], request_id=str(i), model_version="1", timeout=10**7,
                                  priority=2, outputs=[triton.InferRequestedOutput("y")],
                                  enable_empty_final_response=True)  # fmt: skip
    in_order = [answers.get(timeout=20) for _ in range(3)]
    assert [answer.get_response().id for answer in in_order] == ["0", "1", "2"]
    same([4 + 2 * X, in_order[2].as_numpy("y")])
    client.async_stream_infer("doubling", [given("x", X)], parameters={"preserve_ordering": False})
    same([2 * X, answers.get(timeout=20).as_numpy("y")])
    file = given("image", np.array([scene], object))
    words = {"stream": True, "beam_width": 2, "num_captions": 1, "min_tokens": 2, "max_tokens": 12}
    client.async_stream_infer("scenes", [file], parameters=words)
    parts = 1
    while not answers.get(timeout=20).get_response().parameters["triton_final_response"].bool_param:
        parts += 1
    assert parts > 1
    client.async_stream_infer("scenes", [file], parameters={"temperature": 0.8, "seed": 3})
    assert answers.get(timeout=20).as_numpy("caption").shape == (1, 1)
    ranked = triton.InferRequestedOutput("probabilities", class_count=2)
    client.async_stream_infer("digits", [given("image", PIXELS)], outputs=[ranked])
    assert answers.get(timeout=20).as_numpy("probabilities").shape == (2, 2)
    client.async_stream_infer("nope", [given("x", X)])
    assert "not in the repository" in answers.get(timeout=20).message()
    client.stop_stream()


def shared_memory(client: triton.InferenceServerClient) -> None:
    region = shm.create_shared_memory_region("both", "/resonnx_matrix", 4096)
    try:
        shm.set_shared_memory_region(region, [X])
        client.register_system_shared_memory("both", "/resonnx_matrix", 4000, offset=0)
        client.register_system_shared_memory("end", "/resonnx_matrix", 1000, offset=3000)
        assert {*client.get_system_shared_memory_status().regions} == {"both", "end"}
        assert [*client.get_system_shared_memory_status("end").regions] == ["end"]
        there = triton.InferInput("x", list(X.shape), "FP32")
        there.set_shared_memory("both", X.nbytes)
        wanted = triton.InferRequestedOutput("y")
        wanted.set_shared_memory("both", 100, offset=1024)
        client.infer("doubling", [there], outputs=[wanted])
        same([2 * X, shm.get_contents_as_numpy(region, np.float32, list(X.shape), offset=1024)])
        text = np.array([["a", "bc", ""]], object)
        packed = serialize_byte_tensor(text)
        shm.set_shared_memory_region(region, [packed], offset=2048)
        strings = triton.InferInput("x", [1, 3], "BYTES")
        strings.set_shared_memory("both", len(packed.item()), offset=2048)
        assert client.infer("identity_bytes", [strings]).as_numpy("y").tolist() == [[b"a", b"bc", b""]]
        answers: queue.Queue = queue.Queue()
        client.start_stream(lambda result, error: answers.put(error or result))
        there.set_shared_memory("both", X.nbytes, offset=0)
        strings.set_shared_memory("both", len(packed.item()), offset=2048)
        for name, tensor, outputs in (("doubling", there, [wanted]), ("identity_bytes", strings, None)):
            client.async_stream_infer(name, [tensor], outputs=outputs)
            assert not isinstance(answers.get(timeout=20), InferenceServerException)
        client.stop_stream()
        client.unregister_system_shared_memory("end")
        client.unregister_system_shared_memory()
        assert not client.get_system_shared_memory_status().regions
    finally:
        shm.destroy_shared_memory_region(region)
    assert not client.get_cuda_shared_memory_status("").regions
    client.unregister_cuda_shared_memory()
    assert refusal(client.register_cuda_shared_memory, "gpu", b"AAAA", 0, 64) == "UNIMPLEMENTED"


def operations(client: triton.InferenceServerClient) -> None:
    (counted,) = client.get_inference_statistics("doubling", "1").model_stats
    assert counted.inference_stats.success.count > 0
    assert client.get_inference_statistics().model_stats
    index = client.get_model_repository_index()
    assert {"digits", "doubling", "spare"} <= {model.name for model in index.models}
    client.load_model("spare")
    assert client.is_model_ready("spare")
    client.unload_model("spare", unload_dependents=True)
    assert not client.is_model_ready("spare")
    assert refusal(client.load_model, "spare", config="{}") == "INVALID_ARGUMENT"
    changed = {"trace_level": ["TIMESTAMPS"], "trace_rate": "2", "trace_count": "5", "log_frequency": "0",
               "trace_file": "matrix.json"}  # fmt: skip
    settings = client.update_trace_settings("doubling", changed).settings
    assert settings["trace_rate"].value == ["2"]
    assert client.get_trace_settings("doubling").settings["trace_count"].value == ["5"]
    client.update_trace_settings("doubling", {"trace_level": ["OFF"]})
    assert client.get_trace_settings().settings["trace_level"].value == ["OFF"]
    before = client.get_log_settings(as_json=True)["settings"]
    logged = {"log_info": True, "log_warning": True, "log_error": True, "log_verbose_level": 0,
              "log_format": "ISO8601", "log_file": ""}  # fmt: skip
    assert client.update_log_settings(logged).settings["log_format"].string_param == "ISO8601"
    assert before["log_error"] == {"bool_param": True}


if __name__ == "__main__":
    told = started()
    with triton.InferenceServerClient(told.grpc) as first:
        health_and_metadata(first)
        infers(first, told.picture_bytes(), told.label)
        datatypes(first)
        captions(first, told.scene_bytes())
        streams(first, told.scene_bytes())
        shared_memory(first)
        operations(first)
    print("done")
