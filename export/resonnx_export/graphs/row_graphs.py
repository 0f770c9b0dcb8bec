"""Graphs that reorder the rows of a captioner's state and features on the device that holds them.

They are exported because the server does not depend on onnx.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper
from resonnx_server.runtime.model_files.manifest import FEATURE_ROWS_FILE, STATE_ROWS_FILE
from resonnx_server.runtime.session import Array, TensorSpec

from resonnx_export.errors import ParityFailed
from resonnx_export.graphs.trace import OPSET, finish
from resonnx_export.proof.parity import open_session

_SEED = 4000


def row_graphs(decoder: bytes) -> dict[str, bytes]:
    """Make and check the row graphs of a decoder.onnx: state_rows.onnx and, if there are features, feature_rows.onnx.

    Inputs are NAME [rows, ...] and joined_NAME [joined, ...] of each tensor and index int64 [R]; the outputs next_NAME
    [R, ...] are the rows with these indices of both inputs, concatenated.

    Raises:
        ParityFailed: A graph does not compute that here.
    """
    inputs = onnx.load_model_from_string(decoder).graph.input
    files = {}
    for file, prefix in ((STATE_ROWS_FILE, "state_"), (FEATURE_ROWS_FILE, "feature_")):
        if tensors := [tensor for tensor in inputs if tensor.name.startswith(prefix)]:
            files[file] = _row_graph(tensors)
    for _ in check_row_graphs(files):
        pass
    return files


def check_row_graphs(files: Mapping[str, bytes]) -> Iterator[str]:
    """Check a version's row graphs on random rows, and yield a line for each. Raises ParityFailed if one is wrong."""
    rng = np.random.default_rng(_SEED)
    for file in sorted({STATE_ROWS_FILE, FEATURE_ROWS_FILE} & files.keys()):
        session = open_session(files[file])
        names = [spec.name.removeprefix("next_") for spec in session.outputs]
        specs = {spec.name: spec for spec in session.inputs}
        for rows, joined, index in ((1, 1, [0]), (3, 1, [2, 0, 1, 1]), (2, 3, [4, 0, 3, 1, 2]), (7, 2, [8])):
            given = {name: _random(rng, specs[name], rows) for name in names}
            given |= {f"joined_{name}": _random(rng, specs[f"joined_{name}"], joined) for name in names}
            try:
                found = session.run({**given, "index": np.array(index)})
            except Exception as error:  # ONNX Runtime's errors share no base class
                raise ParityFailed(f"{file} does not run: {error}") from None
            for name in names:
                expected = np.concatenate([given[name], given[f"joined_{name}"]])[index]
                if not np.array_equal(found[f"next_{name}"], expected):
                    raise ParityFailed(f"{file}: {name} has rows that the index does not select")
        yield f"  {file}: rows in the right order"


def _row_graph(tensors: Sequence[onnx.ValueInfoProto]) -> bytes:
    inputs, nodes, outputs = [], [], []
    for tensor in tensors:
        name, kind = tensor.name, tensor.type.tensor_type
        shape = [axis.dim_value for axis in kind.shape.dim[1:]]
        inputs.append(helper.make_tensor_value_info(name, kind.elem_type, ["rows", *shape]))
        inputs.append(helper.make_tensor_value_info(f"joined_{name}", kind.elem_type, ["joined", *shape]))
        outputs.append(helper.make_tensor_value_info(f"next_{name}", kind.elem_type, ["chosen", *shape]))
        nodes.append(helper.make_node("Concat", [name, f"joined_{name}"], [f"both_{name}"], axis=0))
        nodes.append(helper.make_node("Gather", [f"both_{name}", "index"], [f"next_{name}"], axis=0))
    inputs.append(helper.make_tensor_value_info("index", onnx.TensorProto.INT64, ["chosen"]))
    graph = helper.make_graph(nodes, "rows", inputs, outputs)
    # The oldest sufficient format, which every runtime that reads the decoder supports.
    opset = helper.make_opsetid("", OPSET)
    return finish(helper.make_model(graph, opset_imports=[opset], ir_version=8, producer_name="resonnx"))


def _random(rng: np.random.Generator, spec: TensorSpec, rows: int) -> Array:
    shape = (rows, *(axis for axis in spec.shape[1:] if isinstance(axis, int)))
    return rng.integers(-1000, 1000, shape).astype(spec.dtype)
