"""What metadata says of a model is what it takes and gives: clients that know nothing else can use it."""

import json
import math
import struct
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto, helper
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc, model_config_pb2
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

NHWC = model_config_pb2.ModelInput.FORMAT_NHWC
NONE = model_config_pb2.ModelInput.FORMAT_NONE


@pytest.fixture(scope="module")
def client(demo_server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(demo_server.grpc) as client:
        yield client


@pytest.fixture(scope="module")
def bare_client(start_server, tmp_path_factory) -> Iterator[triton.InferenceServerClient]:
    """Bare files with a number a row, batched; and with a number alone, not batched."""
    repository = tmp_path_factory.mktemp("scalars")
    vector = helper.make_tensor_value_info
    axes = {"sums": (["n"], ["n"]), "alone": ([], [])}
    for name, (taken, given) in axes.items():
        (repository / name / "1").mkdir(parents=True)
        inputs = [vector("x", TensorProto.FLOAT, taken), vector("y", TensorProto.FLOAT, taken)]
        outputs = [vector("sum", TensorProto.FLOAT, given), vector("is_less", TensorProto.BOOL, given)]
        nodes = [helper.make_node("Add", ["x", "y"], ["sum"]), helper.make_node("Less", ["x", "y"], ["is_less"])]
        graph = helper.make_graph(nodes, "bare", inputs, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        onnx.save(model, repository / name / "1/model.onnx")
    with start_server(repository) as server, triton.InferenceServerClient(server.grpc) as client:
        yield client


def _tensor(name: str, array: np.ndarray, datatype: str) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def _files(name: str, files: list[bytes], *row: int) -> triton.InferInput:
    return _tensor(name, np.array(files, object).reshape(len(files), *row), "BYTES")


def _digits(samples: Path, truth: dict[str, dict[str, str]]) -> list[bytes]:
    return [(samples / name).read_bytes() for name, entry in truth.items() if entry["model"] == "digits"]


def _scenes(samples: Path, truth: dict[str, dict[str, str]]) -> list[bytes]:
    return [(samples / name).read_bytes() for name, entry in truth.items() if entry["model"] == "scenes"]


def _check_config_against_metadata(client: triton.InferenceServerClient, name: str) -> None:
    """Triton's rules for what both say; perf_analyzer and others rely on them."""
    metadata, config = client.get_model_metadata(name), client.get_model_config(name).config
    for shown, configured in ((metadata.inputs, config.input), (metadata.outputs, config.output)):
        assert [tensor.name for tensor in shown] == [tensor.name for tensor in configured]
        for tensor, entry in zip(shown, configured, strict=True):
            assert entry.dims, "dims are never empty"
            assert list(tensor.shape) == [*([-1] if config.max_batch_size else []), *entry.dims]
            assert tensor.datatype == triton_name(entry.data_type)
            if entry.HasField("reshape"):
                # To what the model has: as many elements.
                assert math.prod(entry.reshape.shape) == math.prod(entry.dims)


def triton_name(data_type: int) -> str:
    name = model_config_pb2.DataType.Name(data_type).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


@pytest.mark.parametrize("model", ["digits", "scenes"])
def test_config_and_metadata_agree(client, model: str) -> None:
    _check_config_against_metadata(client, model)


@pytest.mark.parametrize("model", ["sums", "alone"])
def test_config_and_metadata_of_bare_files_agree(bare_client, model: str) -> None:
    _check_config_against_metadata(bare_client, model)


def test_a_captioners_outputs_have_one_element_a_picture(client, samples, truth) -> None:
    config = client.get_model_config("scenes").config
    assert [(output.name, list(output.dims)) for output in config.output] == [("caption", [1]), ("log_prob", [1])]
    assert all(output.HasField("reshape") and not output.reshape.shape for output in config.output)
    assert [list(output.shape) for output in client.get_model_metadata("scenes").outputs] == [[-1, 1], [-1, 1]]
    files = _scenes(samples, truth)[:3]
    for tensor in (_files("image", files), _files("image", files, 1)):
        answer = client.infer("scenes", [tensor])
        assert answer.as_numpy("caption").shape == answer.as_numpy("log_prob").shape == (3, 1)


def test_inputs_of_pictures_say_their_layout_and_that_files_are_taken(client) -> None:
    for name in ("digits", "scenes"):
        image, encoded = client.get_model_config(name).config.input
        assert (image.name, image.format, len(image.dims), image.optional) == ("image", NHWC, 3, True)
        assert (encoded.name, encoded.format, list(encoded.dims), encoded.optional) == (
            "encoded_image",
            NONE,
            [1],
            True,
        )
        assert encoded.data_type == model_config_pb2.TYPE_STRING


def test_files_by_either_name_and_in_either_shape_are_the_same(client, samples, truth) -> None:
    files = _digits(samples, truth)[:4]
    answers = [
        client.infer("digits", [_files(name, files, *row)]).as_numpy("logits")
        for name in ("image", "encoded_image")
        for row in ((), (1,))
    ]
    for answer in answers[1:]:
        # Batches of other sizes may round otherwise.
        np.testing.assert_allclose(answer, answers[0], rtol=1e-4, atol=1e-4)


def test_a_client_that_fills_every_input_gets_an_answer_for_its_pixels(client, samples, truth) -> None:
    metadata = client.get_model_metadata("digits")
    rng = np.random.default_rng(3)
    filled, pixels = [], None
    for tensor in metadata.inputs:
        shape = [1 if size == -1 else size for size in tensor.shape]
        if tensor.datatype == "BYTES":
            array = np.full(shape, b"random text", object)
        else:
            array = pixels = rng.integers(0, 256, shape).astype(triton_to_np_dtype(tensor.datatype))
        filled.append(_tensor(tensor.name, array, tensor.datatype))
    expected = client.infer("digits", [_tensor("image", pixels, "UINT8")]).as_numpy("logits")
    for inputs in (filled, filled[::-1]):
        np.testing.assert_allclose(client.infer("digits", inputs).as_numpy("logits"), expected, rtol=1e-4, atol=1e-4)


def test_raw_content_of_one_file_is_its_length_and_its_bytes(demo_server, samples, truth) -> None:
    """So perf_analyzer passes on what stands in its data as base64."""
    file = _digits(samples, truth)[0]
    request = pb.ModelInferRequest(model_name="digits", raw_input_contents=[struct.pack("<I", len(file)) + file])
    request.inputs.add(name="encoded_image", datatype="BYTES", shape=[1, 1])
    # With all its requests.
    request.parameters["triton_enable_empty_final_response"].bool_param = False
    with grpc.insecure_channel(demo_server.grpc) as channel:
        assert grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=20).outputs


@pytest.mark.slow
@pytest.mark.parametrize("data", ["random", "files"])
def test_perf_analyzer_sends_pixels_of_its_own_or_files_in_base64(
    demo_server, samples, truth, tmp_path, perf_analyzer, data: str
) -> None:
    files = [struct.pack("<I", len(file)) + file for file in _digits(samples, truth)]
    path = tmp_path / "data.json"
    path.write_text(json.dumps({"data": [{"encoded_image": {"b64": b64encode(file).decode()}} for file in files]}))
    flags = ["-i", "grpc", "-m", "digits", "-p", "500", "-s", "1000", "-r", "3"]
    command = [*perf_analyzer, *flags, "-u", demo_server.grpc]
    command += ["--input-data", str(path)] if data == "files" else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert "throughput: " in done.stdout, done.stdout + done.stderr


def test_bad_files_and_inputs_are_told_by_the_name_they_came_under(client) -> None:
    def refused(*inputs: triton.InferInput) -> str:
        with pytest.raises(InferenceServerException) as error:
            client.infer("digits", list(inputs))
        assert error.value.status() == "StatusCode.INVALID_ARGUMENT"
        return error.value.message()

    assert refused(_files("encoded_image", [b"broken"])).startswith("inputs['encoded_image'][0]: ")
    assert refused(_files("image", [b"broken"])).startswith("inputs['image'][0]: ")
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    assert "UINT8; the model takes BYTES files" in refused(_tensor("encoded_image", pixels, "UINT8"))
    assert "[N] or [N, 1]" in refused(_files("encoded_image", [b"a", b"b"], 1, 1))
    assert "takes one of ['encoded_image', 'image']" in refused()


def test_a_number_a_row_is_taken_as_both_shapes_and_given_as_metadata_says(bare_client) -> None:
    assert bare_client.get_model_config("sums").config.max_batch_size == 16
    x = np.array([1, 2, 3], np.float32)
    for row in ((), (1,)):
        both = [_tensor(name, x.reshape(3, *row), "FP32") for name in "xy"]
        answer = bare_client.infer("sums", both)
        assert answer.as_numpy("sum").tolist() == [[2], [4], [6]]
        assert answer.as_numpy("is_less").tolist() == [[False]] * 3
    with pytest.raises(InferenceServerException, match=r"\[3, 2\]; the model takes \[-1, 1\]"):
        bare_client.infer("sums", [_tensor(name, np.zeros((3, 2), np.float32), "FP32") for name in "xy"])


def test_a_number_alone_is_taken_and_given_as_one_element(bare_client) -> None:
    assert bare_client.get_model_config("alone").config.max_batch_size == 0
    assert list(bare_client.get_model_metadata("alone").outputs[0].shape) == [1]
    for shape in ((), (1,)):
        both = [_tensor(name, np.full(shape, 2, np.float32), "FP32") for name in "xy"]
        assert bare_client.infer("alone", both).as_numpy("sum").tolist() == [4]
