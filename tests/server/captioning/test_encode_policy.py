"""When a captioner encodes and when it steps: never idle while there is work, and chosen by the costs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.captioning.encode_policy import EncodePolicy, Load
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.measurement import sizes_up_to

# ms: an int8 ResNet-50 and an LSTM of 512 units on two cores.
ENCODER = LatencyTable({size: (3.6 if size == 1 else 0.4 + 2.5 * size) * 1e6 for size in sizes_up_to(16)})
DECODER = LatencyTable({size: (0.65 + 0.043 * size) * 1e6 for size in sizes_up_to(64)})


@given(
    st.integers(0, 16),
    st.integers(0, 64),
    st.integers(1, 10),
    st.floats(0.5, 500),
    st.booleans(),
)
def test_there_is_always_something_to_do_if_anything_can_be_done(
    waiting: int, captions: int, width: int, steps: float, streaming: bool
) -> None:
    rows = min(64, captions * width)
    pictures = EncodePolicy(ENCODER, DECODER).encode_now(Load(waiting, captions, rows, steps, streaming))
    assert 0 <= pictures <= waiting
    assert pictures or captions or not waiting


def test_what_waits_gathers_while_enough_are_decoding() -> None:
    policy = EncodePolicy(ENCODER, DECODER)
    gathered = [policy.gather(Load(1, captions, captions, 11)) for captions in (1, 4, 15, 47)]
    assert gathered == sorted(gathered)
    assert gathered[0] == 1, "one joins one at once: the step becomes half as dear"
    assert 2 <= gathered[2] <= 8
    assert policy.encode_now(Load(1, 15, 15, 11)) == 0
    assert policy.encode_now(Load(8, 8, 8, 11)) == 8


def test_an_encoder_that_gains_nothing_by_batches_does_not_wait_for_them() -> None:
    linear = LatencyTable({size: 2.5e6 * size for size in sizes_up_to(16)})
    assert EncodePolicy(linear, DECODER).encode_now(Load(1, 30, 30, 11)) == 1


@pytest.mark.parametrize(("factor", "most"), [(1, 8), (0.5, 16), (5, 1), (100, 1)])
def test_streamed_words_do_not_pause_for_long(factor: float, most: int) -> None:
    encoder = LatencyTable({size: ENCODER.cost_ns(size) * factor for size in ENCODER.sizes})
    policy = EncodePolicy(encoder, DECODER)
    assert policy.encode_now(Load(16, 4, 4, 11, streaming=True)) == most
    assert policy.encode_now(Load(16, 4, 4, 11)) == 16
