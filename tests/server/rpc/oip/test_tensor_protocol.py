"""The tensor protocol by an unchanged tritonclient, against a real server of the demo models and bare ONNX files."""

import io
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
import resonnx
import tritonclient.grpc as triton
from onnx import TensorProto, helper
from PIL import Image
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc
from tritonclient.utils import InferenceServerException


@pytest.fixture(scope="module")
def client(demo_server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(demo_server.grpc) as client:
        yield client


def _pictures(samples: Path, truth: dict[str, dict[str, str]], model: str) -> list[tuple[bytes, dict[str, str]]]:
    return [((samples / name).read_bytes(), entry) for name, entry in truth.items() if entry["model"] == model]


def _bytes_input(files: list[bytes]) -> triton.InferInput:
    tensor = triton.InferInput("image", [len(files)], "BYTES")
    tensor.set_data_from_numpy(np.array(files, dtype=object))
    return tensor


def _input(array: np.ndarray, datatype: str, name: str = "image") -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def _size(client: triton.InferenceServerClient, model: str) -> tuple[int, int]:
    shape = client.get_model_metadata(model).inputs[0].shape
    return int(shape[1]), int(shape[2])


@pytest.mark.parametrize("stream", [False, True])
def test_classes_of_what_has_none_are_refused_before_any_work(demo_server, samples: Path, stream: bool) -> None:
    """Not when the words are there: others' words come with them."""
    picture = next(samples.glob("*.png")).read_bytes()
    before = demo_server.metric("resonnx_caption_tokens_total", model="scenes")
    with triton.InferenceServerClient(demo_server.grpc) as client:
        answers: queue.Queue[tuple[object, InferenceServerException | None]] = queue.Queue()
        client.start_stream(callback=lambda result, error: answers.put((result, error)))
        asked = triton.InferRequestedOutput("caption", class_count=1)
        client.async_stream_infer(
            "scenes", [_bytes_input([picture])], outputs=[asked], parameters={"stream": True} if stream else None
        )
        _, error = answers.get(timeout=20)
        assert error is not None
        assert "classification needs a numeric output, which 'caption' is not" in error.message()
        client.stop_stream()
    assert demo_server.metric("resonnx_caption_tokens_total", model="scenes") == before
    assert demo_server.metric("resonnx_request_errors_total", model="scenes", reason="INVALID_INPUT") >= 1


def test_pictures_that_fail_on_a_stream_leave_nothing_behind(demo_server) -> None:
    """Each is forgotten with its answer, not when garbage is collected, which is rare."""

    def resident_mb() -> float:
        return demo_server.metric("process_resident_memory_bytes") / 1e6

    def ask(client: triton.InferenceServerClient, times: int) -> None:
        answers: queue.Queue[tuple[object, InferenceServerException | None]] = queue.Queue()
        client.start_stream(callback=lambda result, error: answers.put((result, error)))
        for _ in range(times):
            client.async_stream_infer("digits", [_bytes_input([bytes(8_000_000)])])
            assert answers.get(timeout=20)[1] is not None
        client.stop_stream()

    with triton.InferenceServerClient(demo_server.grpc) as client:
        ask(client, 10)
        before = resident_mb()
        ask(client, 50)
    assert resident_mb() - before < 100, "of 400 MB"


def test_live_ready_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "1")
    assert not client.is_model_ready("digits", "2")
    assert not client.is_model_ready("unknown")
    assert client.get_server_metadata().name == "resonnx"
    metadata = client.get_model_metadata("digits")
    assert [(t.name, t.datatype) for t in metadata.inputs] == [("image", "UINT8"), ("encoded_image", "BYTES")]
    assert [t.name for t in metadata.outputs] == ["probabilities", "logits", "features"]
    assert list(metadata.outputs[0].shape) == [-1, 10]


def test_config(client: triton.InferenceServerClient) -> None:
    config = client.get_model_config("digits").config
    height, width = _size(client, "digits")
    assert config.max_batch_size == 16
    assert list(config.input[0].dims) == [height, width, 3]
    assert list(config.output[0].dims) == [10]
    assert not config.model_transaction_policy.decoupled
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert config.parameters["verified"].string_value == "true"
    assert config.parameters["verified_against"].string_value == "our_reading"
    assert "assumptions" in config.parameters


def test_digits_by_files_and_by_pixels(client, samples, truth) -> None:
    pictures = _pictures(samples, truth, "digits")
    by_file = client.infer("digits", [_bytes_input([file for file, _ in pictures])])
    height, width = _size(client, "digits")
    resized = [
        np.asarray(Image.open(io.BytesIO(file)).convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
        for file, _ in pictures
    ]
    by_pixels = client.infer("digits", [_input(np.stack(resized), "UINT8")])
    np.testing.assert_allclose(by_file.as_numpy("logits"), by_pixels.as_numpy("logits"), rtol=1e-4, atol=1e-4)
    classified = client.infer(
        "digits",
        [_bytes_input([file for file, _ in pictures])],
        outputs=[triton.InferRequestedOutput("probabilities", class_count=2)],
    ).as_numpy("probabilities")
    assert classified.shape == (len(pictures), 2)
    labels = [row[0].decode().split(":")[2] for row in classified]
    right = sum(label == entry["label"] for label, (_, entry) in zip(labels, pictures, strict=True))
    assert right >= len(pictures) - 1


def test_scenes_by_files_and_by_pixels(client, samples, truth) -> None:
    pictures = _pictures(samples, truth, "scenes")
    answer = client.infer("scenes", [_bytes_input([file for file, _ in pictures])])
    captions = [caption.decode() for (caption,) in answer.as_numpy("caption")]
    assert answer.as_numpy("log_prob").shape == (len(pictures), 1)
    right = sum(caption == entry["caption"] for caption, (_, entry) in zip(captions, pictures, strict=True))
    assert right >= len(pictures) - 2
    height, width = _size(client, "scenes")
    pixels = np.zeros((3, height, width, 3), np.uint8)
    assert client.infer("scenes", [_input(pixels, "UINT8")]).as_numpy("caption").shape == (3, 1)


def test_more_rows_than_a_batch_are_split_and_joined(client) -> None:
    height, width = _size(client, "digits")
    pixels = np.random.default_rng(1).integers(0, 256, (45, height, width, 3), dtype=np.uint8)
    together = client.infer("digits", [_input(pixels, "UINT8")]).as_numpy("logits")
    singly = [client.infer("digits", [_input(pixels[i : i + 1], "UINT8")]).as_numpy("logits")[0] for i in range(45)]
    assert np.abs(together - np.stack(singly)).max() <= 1e-4 * np.abs(together).max()


def test_requested_outputs_id_and_version(client, samples, truth) -> None:
    file = _pictures(samples, truth, "digits")[0][0]
    result = client.infer(
        "digits",
        [_bytes_input([file])],
        model_version="1",
        request_id="r-1",
        outputs=[triton.InferRequestedOutput("features"), triton.InferRequestedOutput("logits")],
    )
    response = result.get_response()
    assert (response.id, response.model_version) == ("r-1", "1")
    assert [output.name for output in response.outputs] == ["features", "logits"]
    assert len(response.raw_output_contents) == 2


def test_stream(client, samples, truth) -> None:
    pictures = _pictures(samples, truth, "digits")
    answers: queue.Queue[tuple[object, object]] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for i, (file, _) in enumerate(pictures):
        client.async_stream_infer("digits", [_bytes_input([file])], request_id=str(i))
    client.async_stream_infer("digits", [_bytes_input([b"broken"])], request_id="bad")
    seen, errors = {}, []
    for _ in range(len(pictures) + 1):
        result, error = answers.get(timeout=30)
        if error is not None:
            errors.append(str(error))
        else:
            seen[result.get_response().id] = result.as_numpy("probabilities")
    client.stop_stream()
    assert set(seen) == {str(i) for i in range(len(pictures))}
    assert len(errors) == 1
    assert "plain text that begins" in errors[0]


def test_statistics_without_a_name_are_those_of_all_models(client) -> None:
    stats = client.get_inference_statistics().model_stats
    assert {model.name for model in stats} >= {"digits", "scenes"}


def test_statistics_count(client, samples, truth) -> None:
    def counts() -> tuple[int, int]:
        stats = client.get_inference_statistics("digits").model_stats[0]
        return stats.inference_count, stats.inference_stats.success.count

    before = counts()
    client.infer("digits", [_bytes_input([f for f, _ in _pictures(samples, truth, "digits")[:3]])])
    after = counts()
    assert (after[0] - before[0], after[1] - before[1]) == (3, 1)


def test_repository_index(client) -> None:
    models = client.get_model_repository_index().models
    assert [(m.name, m.version, m.state) for m in models] == [("digits", "1", "READY"), ("scenes", "1", "READY")]


def _refused(call, code: str, *parts: str) -> None:
    with pytest.raises(InferenceServerException) as refused:
        call()
    assert refused.value.status() == f"StatusCode.{code}"
    for part in parts:
        assert part in refused.value.message(), refused.value.message()
    assert "/" not in refused.value.message().replace("max_batch_size/", ""), "no path of the server"
    assert "Traceback" not in refused.value.message()


@pytest.mark.parametrize("version", ["2", "x", "99999999999999999999"])
def test_unknown_version(client, version: str) -> None:
    _refused(lambda: client.infer("digits", [_bytes_input([b"x"])], model_version=version), "NOT_FOUND", "version")


@pytest.mark.parametrize("name", ["unknown", "../digits", "digits/1", "", " digits", "a" * 256])
def test_unknown_model(client, name: str) -> None:
    with pytest.raises(InferenceServerException) as refused:
        client.infer(name, [_bytes_input([b"x"])])
    assert refused.value.status() == "StatusCode.NOT_FOUND"
    assert len(refused.value.message()) < 200


def test_bad_inputs(client) -> None:
    height, width = _size(client, "digits")
    good = np.zeros((1, height, width, 3), np.uint8)

    def infer(*inputs: triton.InferInput, **options: object):
        return lambda: client.infer("digits", list(inputs), **options)

    _refused(infer(_input(good.astype(np.float32), "FP32")), "INVALID_ARGUMENT", "inputs['image'].datatype", "FP32")
    _refused(infer(_input(good[:, :-1], "UINT8")), "INVALID_ARGUMENT", "inputs['image'].shape", f"{height - 1}")
    _refused(infer(_input(good[0], "UINT8")), "INVALID_ARGUMENT", "inputs['image'].shape")
    _refused(infer(_input(good[:0], "UINT8")), "INVALID_ARGUMENT", "N >= 1")
    _refused(
        infer(_input(good, "UINT8", "picture")),
        "INVALID_ARGUMENT",
        "'picture' is not one of ['encoded_image', 'image']",
    )
    _refused(infer(_input(good, "UINT8"), _input(good, "UINT8", "more")), "INVALID_ARGUMENT", "'more'")
    _refused(
        infer(_bytes_input([b"broken"])), "INVALID_ARGUMENT", "inputs['image'][0]", "plain text that begins 'broken'"
    )
    unknown_output = [triton.InferRequestedOutput("scores")]
    _refused(infer(_input(good, "UINT8"), outputs=unknown_output), "INVALID_ARGUMENT", "'scores'")


@pytest.mark.parametrize(
    ("model", "tensor", "raw", "message"),
    [
        ("free", {"datatype": "UINT8", "shape": [2, 2]}, [b"123"], "3 bytes; UINT8 [2, 2] has 4"),
        ("free", {"datatype": "UINT8", "shape": [-1, 2]}, [b"12"], "size -1 is negative"),
        ("free", {"datatype": "UINT8", "shape": [1] * 65}, [b"1"], "65 dimensions, more than 8"),
        ("free", {"datatype": "UINT8", "shape": [2**62] * 60_000}, [b"1"], "60000 dimensions, more than 8"),
        ("free", {"datatype": "UINT8", "shape": [0, 2**63 - 1]}, [b""], "is over 2147483647 elements"),
        ("free", {"datatype": "UINT8", "shape": [2, 2**30 - 1]}, [b""], "0 bytes; UINT8"),
        ("free", {"datatype": "FANCY", "shape": [1, 1]}, [b"1"], "'FANCY' is not one of"),
        ("free", {"datatype": "INT8", "shape": [1, 1]}, [], "INT8; the model takes UINT8"),
        ("free", {"datatype": "UINT8", "shape": [1, 1]}, [b"1", b"2"], "2 entries for 1 inputs"),
        ("free", {"datatype": "UINT8", "shape": [1, 3], "contents": {"uint_contents": [1, 300]}}, [], "2 values"),
        ("free", {"datatype": "UINT8", "shape": [1, 2], "contents": {"uint_contents": [1, 300]}}, [], "within 0..255"),
        ("free", {"datatype": "UINT8", "shape": [1, 1], "contents": {"uint_contents": [1]}}, [b"1"], "must not be set"),
        ("half", {"datatype": "FP16", "shape": [1], "contents": {"fp32_contents": [1]}}, [], "no typed contents"),
        ("strings", {"datatype": "BYTES", "shape": [1] * 20_000}, [b"1"], "20000 dimensions, more than 8"),
        ("strings", {"datatype": "BYTES", "shape": [1]}, [b"\x09\x00\x00\x00abc"], "says 9 bytes, 3 are left"),
        ("strings", {"datatype": "BYTES", "shape": [2]}, [b"\x04\x00\x00\x00abcd"], "element 1 of 2 is missing"),
        ("strings", {"datatype": "BYTES", "shape": [2**30]}, [b"\x00\x00\x00\x00"], "cannot hold"),
        ("strings", {"datatype": "BYTES", "shape": [1]}, [b"\x01\x00\x00\x00abc"], "2 bytes are left"),
    ],
)
def test_malformed_tensors(bare_server, model: str, tensor: dict, raw: list[bytes], message: str) -> None:
    request = pb.ModelInferRequest(model_name=model, inputs=[{"name": "x", **tensor}], raw_input_contents=raw)
    with grpc.insecure_channel(bare_server.grpc) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(request, timeout=10)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert message in refused.value.details()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"triton_secret": {"int64_param": 1}}, "'triton_secret' is reserved"),
        ({"timeout": {"int64_param": -5}}, "-5 is negative"),
        ({"timeout": {"string_param": "soon"}}, "must be an integer"),
        ({"priority": {"uint64_param": 9}}, "parameters['priority']: 9 is not within 0..8"),
        ({str(number): {"int64_param": 1} for number in range(1025)}, "parameters: 1025 are given, more than 1024"),
    ],
)
def test_bad_parameters(demo_server, parameters: dict, message: str) -> None:
    request = pb.ModelInferRequest(model_name="digits", parameters=parameters)
    with grpc.insecure_channel(demo_server.grpc) as channel, pytest.raises(grpc.RpcError) as refused:
        grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert message in refused.value.details()


def test_typed_contents_are_taken(demo_server, client) -> None:
    height, width = _size(client, "digits")
    values = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    request = pb.ModelInferRequest(model_name="digits")
    tensor = request.inputs.add(name="image", datatype="UINT8", shape=values.shape)
    tensor.contents.uint_contents.extend(values.ravel().tolist())
    with grpc.insecure_channel(demo_server.grpc) as channel:
        response = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)
    logits = np.frombuffer(response.raw_output_contents[1], np.float32)
    expected = client.infer("digits", [_input(values, "UINT8")]).as_numpy("logits")[0]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_outputs_are_given_once(demo_server) -> None:
    request = pb.ModelInferRequest(model_name="digits", outputs=[{"name": "features"}] * 1025)
    with grpc.insecure_channel(demo_server.grpc) as channel:
        infer = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        with pytest.raises(grpc.RpcError, match="1025 are given, more than 1024"):
            infer(request, timeout=10)
        del request.outputs[4:]
        with pytest.raises(grpc.RpcError, match="4 are requested; the model has 3"):
            infer(request, timeout=10)
        del request.outputs[2:]
        with pytest.raises(grpc.RpcError, match="'features' is requested twice"):
            infer(request, timeout=10)


def test_more_rows_than_may_ever_wait(client) -> None:
    height, width = _size(client, "digits")
    pixels = np.zeros((1025, height, width, 3), np.uint8)
    _refused(lambda: client.infer("digits", [_input(pixels, "UINT8")]), "INVALID_ARGUMENT", "1025 rows, more than 1024")


def test_calls_that_are_not_offered(client) -> None:
    _refused(lambda: client.load_model("digits"), "PERMISSION_DENIED", "served on the admin port only")
    _refused(client.get_trace_settings, "PERMISSION_DENIED")


def _graph(path: Path, nodes: list, inputs: list, outputs: list, constants: tuple = ()) -> None:
    path.parent.mkdir(parents=True)
    graph = helper.make_graph(nodes, "bare", inputs, outputs, list(constants))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


@pytest.fixture(scope="module")
def bare_server(start_server, tmp_path_factory) -> Iterator[Any]:
    """Bare files: with independent rows, with mixed rows, without a batch axis, of strings, of other datatypes."""
    repository = tmp_path_factory.mktemp("bare")
    two = helper.make_tensor("two", TensorProto.FLOAT, [1], [2.0])
    vector = helper.make_tensor_value_info
    rows = [vector("x", TensorProto.FLOAT, ["n", 4])]
    out = [vector("y", TensorProto.FLOAT, ["n", 4])]
    _graph(repository / "double/1/model.onnx", [helper.make_node("Mul", ["x", "two"], ["y"])], rows, out, (two,))
    softmax = helper.make_node("Softmax", ["x"], ["y"], axis=0)
    _graph(repository / "mixes_rows/3/model.onnx", [softmax], rows, out)
    fixed = [vector("x", TensorProto.FLOAT, [2, 4])]
    _graph(
        repository / "fixed/1/model.onnx",
        [helper.make_node("Mul", ["x", "two"], ["y"])],
        fixed,
        [vector("y", TensorProto.FLOAT, [2, 4])],
        (two,),
    )
    _graph(
        repository / "baked/1/model.onnx",
        [helper.make_node("Mul", ["x", "two"], ["z"]), helper.make_node("Expand", ["z", "shape"], ["y"])],
        fixed,
        [vector("y", TensorProto.FLOAT, [2, 4])],
        (two, helper.make_tensor("shape", TensorProto.INT64, [2], [2, 4])),
    )
    texts = [vector("x", TensorProto.STRING, ["n"])]
    _graph(
        repository / "strings/1/model.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        texts,
        [vector("y", TensorProto.STRING, ["n"])],
    )
    for name, kind, shape in (("free", TensorProto.UINT8, ["n", "m"]), ("half", TensorProto.FLOAT16, [1])):
        copied = [helper.make_node("Identity", ["x"], ["y"])]
        _graph(repository / name / "1/model.onnx", copied, [vector("x", kind, shape)], [vector("y", kind, shape)])
    with start_server(repository) as server:
        yield server


@pytest.fixture(scope="module")
def bare_client(bare_server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(bare_server.grpc) as client:
        yield client


def test_bare_file(bare_server, bare_client) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(bare_client.infer("double", [_input(x, "FP32", "x")]).as_numpy("y"), x * 2)
    assert bare_client.get_model_config("double").config.max_batch_size == 16
    parameters = bare_client.get_model_config("double").config.parameters
    assert [parameters[name].string_value for name in ("verified", "verified_against")] == ["false", "none"]
    with resonnx.Client(bare_server.grpc) as client:
        info = client.model("double")
    assert (info.verified_against, info.assumptions) == ("", ())
    assert info.inputs == (resonnx.TensorInfo("x", "FP32", (-1, 4)),)
    assert info.outputs == (resonnx.TensorInfo("y", "FP32", (-1, 4)),)
    assert list(bare_client.get_model_metadata("double").inputs[0].shape) == [-1, 4]
    _refused(lambda: bare_client.infer("double", [_input(x[:, :3], "FP32", "x")]), "INVALID_ARGUMENT", "[3, 3]")
    _refused(
        lambda: bare_client.infer("double", [_input(x.astype(np.float64), "FP64", "x")]), "INVALID_ARGUMENT", "FP64"
    )


def test_bare_file_whose_rows_depend_on_each_other_is_not_batched(bare_client) -> None:
    assert bare_client.get_model_config("mixes_rows").config.max_batch_size == 0
    x = np.array([[0, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    np.testing.assert_allclose(bare_client.infer("mixes_rows", [_input(x, "FP32", "x")]).as_numpy("y"), x + 0.5)


def test_bare_file_of_a_fixed_size_with_independent_rows_is_batched(bare_client) -> None:
    config = bare_client.get_model_config("fixed").config
    assert (config.max_batch_size, list(config.input[0].dims)) == (16, [4])
    for rows in (1, 2, 5):
        x = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
        np.testing.assert_array_equal(bare_client.infer("fixed", [_input(x, "FP32", "x")]).as_numpy("y"), x * 2)


def test_bare_file_without_batch_axis(bare_client) -> None:
    config = bare_client.get_model_config("baked").config
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [2, 4])
    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(bare_client.infer("baked", [_input(x, "FP32", "x")]).as_numpy("y"), x * 2)


def test_bare_file_of_strings(bare_client) -> None:
    x = np.array([b"hello", "zwölf".encode()], object)
    answer = bare_client.infer("strings", [_input(x, "BYTES", "x")]).as_numpy("y")
    assert answer.tolist() == [b"hello", "zwölf".encode()]


@pytest.mark.parametrize("element", [b"\xff\xfe", b"\x89PNG\r\n\x1a\n\0\0", b"\0", b"", "zwölf".encode("latin-1")])
def test_bytes_that_are_no_text_pass_through_a_bare_file(bare_server, bare_client, element: bytes) -> None:
    x = np.array([b"text", element, element * 3], object)
    assert bare_client.infer("strings", [_input(x, "BYTES", "x")]).as_numpy("y").tolist() == x.tolist()
    typed = pb.ModelInferRequest(model_name="strings")
    typed.inputs.add(name="x", datatype="BYTES", shape=[1]).contents.bytes_contents.append(element)
    with grpc.insecure_channel(bare_server.grpc) as channel:
        answer = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(typed, timeout=20)
    assert answer.raw_output_contents[0] == len(element).to_bytes(4, "little") + element


def test_more_strings_than_are_read_at_once(bare_client) -> None:
    x = np.array([str(number).encode() for number in range(70_000)], object)
    np.testing.assert_array_equal(bare_client.infer("strings", [_input(x, "BYTES", "x")]).as_numpy("y"), x)
