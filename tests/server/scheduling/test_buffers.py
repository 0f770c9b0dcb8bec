"""Buffers in which inputs of batches are joined."""

import weakref

import numpy as np
import pytest
from resonnx_server.scheduling.session_pool import BufferPool, free_buffers


def test_rows_that_pad_a_batch_are_its_own() -> None:
    """What an earlier batch left in a buffer may be what the model fails on."""
    buffers = BufferPool(8)
    first, buffer = buffers.join([np.full((3, 2), -1), np.full((2, 2), -1)], 8)
    assert (first == -1).all()
    buffers.release(buffer)
    second, again = buffers.join([np.full((1, 2), 5), np.full((1, 2), 6)], 4)
    assert again is buffer
    assert second.tolist() == [[5, 5], [6, 6], [5, 5], [5, 5]]


@pytest.mark.parametrize("other", [np.full((1, 3), 0.5), np.full((1, 2), 0.5), np.full((1,), 7)])
def test_rows_of_another_shape_or_kind_get_a_buffer_of_their_own(other: np.ndarray) -> None:
    buffers = BufferPool(8)
    _, buffer = buffers.join([np.full((1, 2), -1)], 4)
    buffers.release(buffer)
    joined, _ = buffers.join([other], 2)
    assert joined.dtype == other.dtype
    assert np.array_equal(joined, np.repeat(other, 2, axis=0))


def test_buffers_that_are_not_lent_are_freed_on_request() -> None:
    pool = BufferPool(4)
    rows = [np.ones((1, 3)), np.ones((1, 3))]
    first = pool.join(rows, 2)[1]
    joined, lent = pool.join(rows, 2)
    assert first is not None
    freed = weakref.ref(first)
    pool.release(first)
    del first
    # An assertion would hold the buffer.
    is_kept = freed() is not None
    assert is_kept, "for the next batch"
    free_buffers()
    assert freed() is None
    assert (joined == 1).all()
    pool.release(lent)
    assert pool.join(rows, 2)[1] is lent
