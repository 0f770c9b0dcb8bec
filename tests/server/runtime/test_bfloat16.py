"""Numbers of bfloat16 are the upper halves of those of float32."""

import ml_dtypes
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.runtime.bfloat16 import BFLOAT16, comparable, from_float32, nearest, to_float32


@given(st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=8))
def test_all_bits_survive(bits: list[int]) -> None:
    array = np.array(bits, np.uint16).view(BFLOAT16)
    wide = to_float32(array)
    assert wide.view(np.uint32).tolist() == [each << 16 for each in bits]
    assert from_float32(wide).view(np.uint16).tolist() == bits


@given(st.lists(st.floats(width=32), min_size=1, max_size=8))
def test_the_nearest_numbers(numbers: list[float]) -> None:
    array = np.array(numbers, np.float32)
    rounded = to_float32(nearest(array))
    np.testing.assert_array_equal(rounded, array.astype(ml_dtypes.bfloat16).astype(np.float32))
    assert np.signbit(rounded[~np.isnan(array)]).tolist() == np.signbit(array[~np.isnan(array)]).tolist()


def test_shapes_stay_and_other_types_pass() -> None:
    array = from_float32(np.array([[1.0, -2.5], [0.0, np.inf]], np.float32))
    assert (array.dtype, array.shape) == (BFLOAT16, (2, 2))
    assert comparable(array[:, ::-1]).tolist() == [[-2.5, 1.0], [np.inf, 0.0]]
    assert to_float32(np.zeros((0, 3), BFLOAT16)).shape == (0, 3)
    assert to_float32(from_float32(np.float32(3).reshape(()))).shape == ()
    numbers = np.arange(3)
    assert comparable(numbers) is numbers
