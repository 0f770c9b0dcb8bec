"""A Triton repository of ONNX models is served as its config.pbtxt files say."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto, helper, numpy_helper
from tritonclient.utils import InferenceServerException

RNG = np.random.default_rng(3)
WEIGHTS = RNG.normal(0, 1, (12, 5)).astype(np.float32)


def _classifier(batch: int | str, outputs: tuple[str, ...] = ("fc", "flat")) -> bytes:
    """data [batch,3,2,2] -> fc [batch,5,1,1] = flat [batch,12] @ WEIGHTS."""
    shapes = {"fc": [batch, 5, 1, 1], "flat": [batch, 12]}
    nodes = [
        helper.make_node("Reshape", ["data", "to_flat"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["classes"]),
        helper.make_node("Reshape", ["classes", "to_fc"], ["fc"]),
    ]
    constants = {"to_flat": np.array([-1, 12]), "to_fc": np.array([-1, 5, 1, 1]), "weights": WEIGHTS}
    return _model(nodes, {"data": [batch, 3, 2, 2]}, {name: shapes[name] for name in outputs}, constants)


def _scaled(scale: int = 2) -> bytes:
    """x [n,m] * scale, an input with a value of its own."""
    nodes = [helper.make_node("Mul", ["x", "scale"], ["y"])]
    return _model(nodes, {"x": ["n", "m"], "scale": [1]}, {"y": ["n", "m"]}, {"scale": np.array([scale], np.float32)})


def _model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int | str]],
    outputs: dict[str, list[int | str]],
    constants: dict[str, np.ndarray],
) -> bytes:
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", given, made, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return model.SerializeToString()


DENSENET = """\
name: "densenet"
platform: "onnxruntime_onnx"
max_batch_size : 0
input [ { name: "data" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 2, 2 ] reshape { shape: [ 1, 3, 2, 2 ] } } ]
output [ { name: "fc" data_type: TYPE_FP32 dims: [ 5 ]
           reshape { shape: [ 1, 5, 1, 1 ] } label_filename: "labels.txt" } ]
"""
BATCHED = """\
backend: "onnxruntime"
max_batch_size: 8
input { name: "data" data_type: TYPE_FP32 dims: [ 12 ] reshape { shape: [ 3, 2, 2 ] } }
output [ { name: "flat" data_type: TYPE_FP32 dims: [ -1 ] }, { name: "fc" data_type: TYPE_FP32 dims: [ 5, 1, 1 ] } ]
default_model_filename: "net.onnx"
instance_group { count: 1 kind: KIND_CPU }
optimization { graph { level: -1 } }
dynamic_batching { preferred_batch_size: [ 4, 8 ]
  priority_levels: 3 default_priority_level: 2
  default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 9000000 max_queue_size: 100 }
  priority_queue_policy { key: 1
    value { default_timeout_microseconds: 8000000 allow_timeout_override: true } } }
"""
SCALED = """\
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1, 3 ] },
        { name: "scale" data_type: TYPE_FP32 dims: 1 optional: true } ]
output { name: "y" data_type: TYPE_FP32 dims: [ -1, 3 ] }
"""


# Rows that depend on each other: softmax over all of them.
RANKED = """\
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: 3 }
output { name: "y" data_type: TYPE_FP32 dims: 3 }
dynamic_batching { max_queue_delay_microseconds: 200 }
"""


def _ranked() -> bytes:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Softmax", ["x"], ["y"], axis=0)], "ranked", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


def _write(repository: Path, name: str, config: str, content: bytes, file: str = "model.onnx") -> None:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(config)
    (repository / name / "1" / file).parent.mkdir(exist_ok=True)
    (repository / name / "1" / file).write_bytes(content)


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory) -> Iterator[object]:
    repository = tmp_path_factory.mktemp("triton")
    _write(repository, "densenet", DENSENET, _classifier(1))
    (repository / "densenet" / "labels.txt").write_text("tench\ngoldfish\n\nhammerhead\n")
    _write(repository, "batched", BATCHED, _classifier("n"), "net.onnx")
    fixed = BATCHED.replace("net.onnx", "model.onnx")
    _write(repository, "fixed", fixed, _classifier(1))
    # Triton's folder for a model with external data.
    _write(repository, "scaled", SCALED, _scaled(), "model.onnx/model.onnx")
    _write(
        repository,
        "bad",
        DENSENET.replace("densenet", "bad").replace("[ 1, 3, 2, 2 ]", "[ 1, 2, 3, 2 ]"),
        _classifier(1),
    )
    (repository / "bad" / "labels.txt").write_text("tench\n")
    _write(repository, "python", 'backend: "python"', b"")
    _write(repository, "versions", "max_batch_size: 4 version_policy { specific { versions: [1, 2] } }", _scaled())
    for version, weight in ((2, 20), (3, 30)):
        (repository / "versions" / str(version)).mkdir()
        (repository / "versions" / str(version) / "model.onnx").write_bytes(_scaled(weight))
    _write(repository, "ranked", RANKED, _ranked())
    with start_server(repository) as server:
        yield server


@pytest.fixture
def client(server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc) as client:
        yield client


def _input(name: str, array: np.ndarray) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), "FP32")
    tensor.set_data_from_numpy(array)
    return tensor


def test_shapes_without_a_batch_axis_are_the_clients(client: triton.InferenceServerClient) -> None:
    config, metadata = client.get_model_config("densenet").config, client.get_model_metadata("densenet")
    assert config.max_batch_size == 0
    (data,), (fc,) = config.input, config.output
    assert (list(data.dims), list(data.reshape.shape), data.format) == ([3, 2, 2], [1, 3, 2, 2], 2)
    assert (list(fc.dims), list(fc.reshape.shape), fc.label_filename) == ([5], [1, 5, 1, 1], "labels.txt")
    assert (list(metadata.inputs[0].shape), list(metadata.outputs[0].shape)) == ([3, 2, 2], [5])
    x = RNG.normal(0, 1, (3, 2, 2)).astype(np.float32)
    answer = client.infer("densenet", [_input("data", x)]).as_numpy("fc")
    np.testing.assert_allclose(answer, x.ravel() @ WEIGHTS, rtol=1e-5)
    with pytest.raises(InferenceServerException, match=r"\[1, 3, 2, 2\]; the model takes \[3, 2, 2\]"):
        client.infer("densenet", [_input("data", x[None])])


def test_labels_are_those_of_the_file(client: triton.InferenceServerClient) -> None:
    x = RNG.normal(0, 1, (3, 2, 2)).astype(np.float32)
    output = triton.InferRequestedOutput("fc", class_count=5)
    classes = client.infer("densenet", [_input("data", x)], outputs=[output]).as_numpy("fc")
    named = {value.decode().split(":", 1)[1] for value in classes.tolist()}
    assert named == {"0:tench", "1:goldfish", "2", "3:hammerhead", "4"}, "class 2 has no name, and class 4 no line"


@pytest.mark.parametrize("rows", [1, 3, 9])
def test_a_graph_of_one_row_is_batched_where_its_configuration_says_so(
    client: triton.InferenceServerClient, rows: int
) -> None:
    """Triton refuses it: its own batch axis is 1."""
    x = RNG.normal(0, 1, (rows, 12)).astype(np.float32)
    answer = client.infer("fixed", [_input("data", x)]).as_numpy("fc")
    np.testing.assert_allclose(answer, (x @ WEIGHTS)[..., None, None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 3, 9])
def test_rows_are_reshaped_and_outputs_are_in_the_declared_order(
    client: triton.InferenceServerClient, rows: int
) -> None:
    metadata, config = client.get_model_metadata("batched"), client.get_model_config("batched").config
    assert [list(each.shape) for each in (*metadata.inputs, *metadata.outputs)] == [[-1, 12], [-1, 12], [-1, 5, 1, 1]]
    assert [each.name for each in metadata.outputs] == ["flat", "fc"]
    assert (config.max_batch_size, config.default_model_filename, config.instance_group[0].count) == (8, "net.onnx", 1)
    x = RNG.normal(0, 1, (rows, 12)).astype(np.float32)
    answer = client.infer("batched", [_input("data", x)])
    np.testing.assert_array_equal(answer.as_numpy("flat"), x)
    np.testing.assert_allclose(answer.as_numpy("fc"), (x @ WEIGHTS)[..., None, None], rtol=1e-4, atol=1e-5)


def test_an_optional_input_may_be_left_out_and_free_sizes_are_bounded(client: triton.InferenceServerClient) -> None:
    assert [each.optional for each in client.get_model_config("scaled").config.input] == [False, True]
    x = RNG.normal(0, 1, (2, 3)).astype(np.float32)
    np.testing.assert_array_equal(client.infer("scaled", [_input("x", x)]).as_numpy("y"), 2 * x)
    given = [_input("x", x), _input("scale", np.array([3], np.float32))]
    np.testing.assert_array_equal(client.infer("scaled", given).as_numpy("y"), 3 * x)
    with pytest.raises(InferenceServerException, match=r"\[2, 4\]; the model takes \[-1, 3\]"):
        client.infer("scaled", [_input("x", np.zeros((2, 4), np.float32))])


def test_the_versions_of_the_policy_are_served(client: triton.InferenceServerClient) -> None:
    """It was ignored: version 3 answered."""
    x = np.ones((1, 3), np.float32)
    assert client.get_model_metadata("versions").versions == ["1", "2"]
    assert client.get_model_metadata("versions", "1").versions == ["1"]
    answers = {version: client.infer("versions", [_input("x", x)], version) for version in ("", "1", "2")}
    assert {version: answer.as_numpy("y")[0, 0] for version, answer in answers.items()} == {"": 20, "1": 2, "2": 20}
    with pytest.raises(InferenceServerException, match="no version 3"):
        client.infer("versions", [_input("x", x)], "3")
    for version in ("", "1"):
        policy = client.get_model_config("versions", version).config.version_policy
        assert list(policy.specific.versions) == [1, 2]


def test_a_declared_batch_axis_is_one_though_requests_run_alone(client: triton.InferenceServerClient) -> None:
    """As in Triton: shapes, and classes of each row."""
    config, metadata = client.get_model_config("ranked").config, client.get_model_metadata("ranked")
    assert (config.max_batch_size, list(config.input[0].dims), list(metadata.inputs[0].shape)) == (4, [3], [-1, 3])
    assert config.dynamic_batching.max_queue_delay_microseconds == 200
    x = np.array([[1, 2, 5], [1, 4, 2]], np.float32)
    answer = client.infer("ranked", [_input("x", x)]).as_numpy("y")
    np.testing.assert_allclose(answer, np.exp(x) / np.exp(x).sum(axis=0), rtol=1e-5)
    best = triton.InferRequestedOutput("y", class_count=1)
    classes = client.infer("ranked", [_input("x", x)], outputs=[best]).as_numpy("y")
    assert [[value.decode().rpartition(":")[2] for value in row] for row in classes] == [["2"], ["1"]]
    with pytest.raises(InferenceServerException, match=r"5 rows, which run in one batch: 4 at most \(max_batch_size\)"):
        client.infer("ranked", [_input("x", np.zeros((5, 3), np.float32))])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bad", r"line 4: input 'data' has the reshape \[1, 2, 3, 2\]; in the graph it is \[1, 3, 2, 2\]"),
        ("python", "line 1: backend 'python' is not supported: onnxruntime is"),
    ],
)
def test_what_cannot_be_served_is_refused(client: triton.InferenceServerClient, name: str, reason: str) -> None:
    with pytest.raises(InferenceServerException, match=rf"config\.pbtxt, {reason}"):
        client.infer(name, [_input("data", np.zeros((3, 2, 2), np.float32))])


def test_queue_policies_are_told_and_priorities_that_there_are_not_are_the_default(
    client: triton.InferenceServerClient,
) -> None:
    batching = client.get_model_config("batched").config.dynamic_batching
    assert (batching.priority_levels, batching.default_priority_level) == (3, 2)
    default, first = batching.default_queue_policy, batching.priority_queue_policy[1]
    assert (default.timeout_action, default.default_timeout_microseconds, default.max_queue_size) == (1, 9_000_000, 100)
    assert (first.timeout_action, first.default_timeout_microseconds, first.allow_timeout_override) == (0, 8_000_000, 1)
    x = RNG.normal(0, 1, (1, 12)).astype(np.float32)
    for priority in (1, 3, 100):
        # A timeout is of the queue's wait, not of the answer.
        answer = client.infer("batched", [_input("data", x)], priority=priority, timeout=500_000)
        np.testing.assert_array_equal(answer.as_numpy("flat"), x)


def test_fields_without_effect_are_logged(server) -> None:
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if "no effect" in line]
    told = {(line["model"], line["field"].split(" has no effect")[0]) for line in lines if line["model"] != "fixed"}
    assert told == {
        ("batched", "config.pbtxt, line 7: optimization"),
        ("batched", "config.pbtxt, line 8: dynamic_batching.preferred_batch_size"),
    }
