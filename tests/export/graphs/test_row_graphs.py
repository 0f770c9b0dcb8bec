"""Graphs that put rows in order: made of a decoder's own inputs, and refused if they do anything else."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from resonnx_export.errors import ParityFailed
from resonnx_export.graphs.row_graphs import check_row_graphs, row_graphs
from resonnx_export.proof.parity import open_session


def _decoder(**tensors: tuple[int, tuple[int, ...]]) -> bytes:
    inputs = [helper.make_tensor_value_info(name, kind, ["rows", *shape]) for name, (kind, shape) in tensors.items()]
    model: bytes = helper.make_model(helper.make_graph([], "decoder", inputs, [])).SerializeToString()
    return model


TOKEN, STATE = (TensorProto.INT64, ()), (TensorProto.FLOAT, (4,))


def test_rows_of_both_in_the_order_of_the_index() -> None:
    files = row_graphs(_decoder(token=TOKEN, state_0=STATE, state_1=(TensorProto.INT64, (2, 3)), feature_0=STATE))
    assert sorted(files) == ["feature_rows.onnx", "state_rows.onnx"]
    session = open_session(files["state_rows.onnx"])
    assert [spec.name for spec in session.outputs] == ["next_state_0", "next_state_1"]
    assert [spec.dtype for spec in session.outputs] == [np.float32, np.int64]
    rows, joined = np.arange(8, dtype=np.float32).reshape(2, 4), np.full((1, 4), 9, np.float32)
    numbers = np.arange(6).reshape(1, 2, 3)
    out = session.run(
        {
            "state_0": rows,
            "joined_state_0": joined,
            "state_1": np.concatenate([numbers, -numbers]),
            "joined_state_1": 5 + numbers,
            "index": np.array([2, 0, 0]),
        }
    )
    assert out["next_state_0"].tolist() == [[9] * 4, [0, 1, 2, 3], [0, 1, 2, 3]]
    assert np.array_equal(out["next_state_1"], np.concatenate([5 + numbers, numbers, numbers]))
    assert len(list(check_row_graphs(files))) == 2
    assert (
        row_graphs(_decoder(token=TOKEN, state_0=STATE, state_1=(TensorProto.INT64, (2, 3)), feature_0=STATE)) == files
    )


def test_a_captioner_without_features_has_one() -> None:
    assert list(row_graphs(_decoder(token=TOKEN, state_0=STATE))) == ["state_rows.onnx"]


@pytest.mark.parametrize("damage", ["order", "twice"])
def test_a_damaged_graph_is_refused(damage: str) -> None:
    files = row_graphs(_decoder(token=TOKEN, state_0=STATE, feature_0=(TensorProto.FLOAT, (2, 2))))
    model = onnx.load_model_from_string(files["feature_rows.onnx"])
    both = next(node for node in model.graph.node if node.op_type == "Concat")
    if damage == "order":
        both.input[:] = reversed(both.input)
    else:
        del both.input[1]
        both.input.append(both.input[0])
    with pytest.raises(ParityFailed, match=r"feature_rows\.onnx"):
        list(check_row_graphs({**files, "feature_rows.onnx": model.SerializeToString()}))
