"""Best classes: what a stable sort of all values gives, for every datatype, in pieces of any size."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from resonnx_server.errors import InvalidInput
from resonnx_server.protocol.oip import ranking
from resonnx_server.protocol.oip.ranking import best_classes, check_classes, ranked_shape

DTYPES = ["?", "u1", "<u2", "<u4", "<u8", "i1", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8"]
# Of few values there are ties; and those that order badly.
AWKWARD = [0, 1, -0.0, -1, 2**24 + 1, 2**53 + 1, -(2**63), 2**63 - 1, 2**64 - 1, math.inf, -math.inf, math.nan, 1e-40]


def _expected(row: list[Any], k: int, labels: tuple[str, ...]) -> list[str]:
    """Values as Python's numbers, which compare exactly."""
    order = sorted(range(len(row)), key=lambda i: (row[i] != row[i], 0 if row[i] != row[i] else -row[i]))
    return [f"{row[i]:.6f}:{i}" + (f":{labels[i]}" if labels else "") for i in order[:k]]


@st.composite
def outputs(draw: st.DrawFn) -> np.ndarray:
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 40)))
    limits = None if dtype.kind in "fb" else np.iinfo(dtype)
    awkward = [
        value
        for value in AWKWARD
        if (dtype.kind == "f" and (dtype.itemsize > 2 or value == 0 or not 1e4 < abs(value) < math.inf))
        or (limits is not None and not isinstance(value, float) and limits.min <= value <= limits.max)
        or (dtype.kind == "b" and value in (0, 1))
    ]
    elements = st.sampled_from(awkward).map(lambda value: dtype.type(value))
    if draw(st.booleans()):
        elements = arrays.from_dtype(dtype)
    return draw(arrays.arrays(dtype, shape, elements=elements))


@given(outputs(), st.integers(1, 50), st.integers(1, 9), st.booleans(), st.booleans())
def test_best_classes(values: np.ndarray, top_k: int, piece: int, batched: bool, named: bool) -> None:
    width = values.shape[1] if batched else values.size
    labels = tuple(f"ä{i}" for i in range(width)) if named else ()
    before = ranking._RANKED, ranking._WRITTEN
    ranking._RANKED, ranking._WRITTEN = piece, piece
    try:
        found = [
            text.decode() for part in best_classes(values, top_k, labels, batched=batched) if part for text in part
        ]
    finally:
        ranking._RANKED, ranking._WRITTEN = before
    rows = values if batched else values.reshape(1, -1)
    assert found == [text for row in rows.tolist() for text in _expected(row, top_k, labels)]
    assert len(found) == math.prod(ranked_shape(values.shape, top_k, batched=batched))


def test_classes_without_a_name_have_none() -> None:
    """As in Triton: a file of labels may be shorter or longer than the output, and have empty lines."""
    found = [*best_classes(np.array([[1.0, 2.0, 3.0]]), 3, ("a", ""), batched=True)]
    assert found[-1] == [b"3.000000:2", b"2.000000:1", b"1.000000:0:a"]


def test_how_many_classes_may_be_asked_for() -> None:
    check_classes(1_000_000)
    with pytest.raises(InvalidInput, match="1000001 classes in total, more than 1000000"):
        check_classes(1_000_001)
