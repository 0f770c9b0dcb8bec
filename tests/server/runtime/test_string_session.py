"""String tensors hold any bytes, through ONNX Runtime's C API; where that is not to be had, text."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from resonnx_proto.v1 import manifest_pb2
from resonnx_server.errors import InvalidInput, ModelRefused
from resonnx_server.runtime import session as sessions
from resonnx_server.runtime.c_api import library
from resonnx_server.runtime.cancellation import Cancellation
from resonnx_server.runtime.session import CPU, Candidate, Session
from resonnx_server.runtime.string_session import StringSession

TYPES = {
    "?": TensorProto.BOOL,
    "u1": TensorProto.UINT8,
    "i1": TensorProto.INT8,
    "u2": TensorProto.UINT16,
    "i2": TensorProto.INT16,
    "u4": TensorProto.UINT32,
    "i4": TensorProto.INT32,
    "u8": TensorProto.UINT64,
    "i8": TensorProto.INT64,
    "f2": TensorProto.FLOAT16,
    "f4": TensorProto.FLOAT,
    "f8": TensorProto.DOUBLE,
}
FP32 = Candidate(CPU, manifest_pb2.PRECISION_FP32)


def _model(shape: list[str], dtype: str = "f4") -> bytes:
    """Two inputs, of strings and of numbers, that are the outputs too."""
    kinds = {"text": TensorProto.STRING, "number": TYPES[dtype]}
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name, kind in kinds.items()]
    outputs = [helper.make_tensor_value_info(f"same_{name}", kind, shape) for name, kind in kinds.items()]
    nodes = [helper.make_node("Identity", [name], [f"same_{name}"]) for name in kinds]
    graph = helper.make_graph(nodes, "copies", inputs, outputs)
    model: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    ).SerializeToString()
    return model


@cache
def _copies(rank: int, dtype: str = "f4") -> Session:
    return Session(_model([f"axis{i}" for i in range(rank)], dtype), FP32, 1)


def _objects(elements: list[bytes], shape: tuple[int, ...]) -> np.ndarray:
    array = np.empty(len(elements), object)
    array[:] = elements
    return array.reshape(shape)


def test_the_installed_runtime_has_the_library() -> None:
    assert library() is not None
    assert isinstance(_copies(1)._strings, StringSession)


@given(st.lists(st.one_of(st.binary(max_size=9), st.sampled_from([b"", b"\0", b"a\0", b"\0\0b", b"\xff" * 99]))))
def test_any_bytes_come_back(elements: list[bytes]) -> None:
    given = _objects(elements, (len(elements),))
    outputs = _copies(1).run({"text": given, "number": np.zeros(2, np.float32)})
    assert outputs["same_text"].tolist() == elements
    assert outputs["same_text"].dtype == object


@pytest.mark.parametrize("shape", [(), (2, 3), (2, 0), (1, 2, 3)])
@pytest.mark.parametrize("dtype", TYPES)
def test_numbers_beside_them_keep_type_and_shape(shape: tuple[int, ...], dtype: str) -> None:
    rng = np.random.default_rng(1)
    numbers = np.asarray(rng.integers(0, 100, shape), dtype)
    texts = _objects([bytes([i, 255]) for i in range(numbers.size)], shape)
    # Whatever the arrays' order in memory.
    outputs = _copies(len(shape), dtype).run({"number": numbers.copy(order="F"), "text": texts})
    assert outputs["same_text"].shape == shape
    assert outputs["same_text"].tolist() == texts.tolist()
    assert (outputs["same_number"].dtype, outputs["same_number"].shape) == (numbers.dtype, shape)
    assert outputs["same_number"].tolist() == numbers.tolist()


def test_only_what_is_wanted_is_given() -> None:
    feeds = {"text": _objects([b"\xfe"], (1,)), "number": np.ones(1, np.float32)}
    assert list(_copies(1).run(feeds, ["same_number"])) == ["same_number"]


def test_a_failed_run_is_told_and_the_next_one_works() -> None:
    session, number = _copies(1), np.ones(1, np.float32)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="Invalid rank for input: text"):
            session.run({"text": _objects([b"a"], (1, 1)), "number": number})
    assert session.run({"text": _objects([b"a"], (1,)), "number": number})["same_text"].tolist() == [b"a"]


def test_several_threads_run_at_once() -> None:
    session = _copies(1)

    def ask(number: int) -> Any:
        elements = [bytes([number, i % 256]) for i in range(500)]
        outputs = session.run({"text": _objects(elements, (500,)), "number": np.full(500, number, np.float32)})
        return outputs["same_text"].tolist() == elements and (outputs["same_number"] == number).all()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(64)))


def test_runs_of_a_load_that_is_ended_end() -> None:
    feeds = {"text": _objects([b"a"], (1,)), "number": np.ones(1, np.float32)}
    with Cancellation() as load:
        session = Session(_model(["n"]), FP32, 1)
        assert session.run(feeds)["same_text"].tolist() == [b"a"]
        load.cancel()
        with pytest.raises(ModelRefused, match="the load was cancelled"):
            session.run(feeds)
    session._strings._api.call("RunOptionsUnsetTerminate", session._strings._run_options)
    session.run_options.terminate = False
    assert session.run(feeds)["same_text"].tolist() == [b"a"]


def test_without_the_library_strings_are_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "library", lambda: None)
    session, numbers = Session(_model(["n"]), FP32, 1), np.zeros(2, np.float32)
    outputs = session.run({"text": _objects(["zwölf".encode(), b""], (2,)), "number": numbers})
    assert outputs["same_text"].tolist() == ["zwölf", ""]
    with pytest.raises(InvalidInput, match=r"inputs\['text'\]: a string is not UTF-8"):
        session.run({"text": _objects([b"\xff", b""], (2,)), "number": numbers})
