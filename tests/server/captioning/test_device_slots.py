"""Slots on a device hold the same rows as slots in host memory, and copy only rows that changed.

They run on the CPU provider, whose device is called "cpu": a GPU gets the same calls with another device name.
"""

import random
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from resonnx_export.graphs.row_graphs import row_graphs
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.captioning.device_slots import device_slots
from resonnx_server.captioning.slots import Slots, host_slots
from resonnx_server.runtime.binding import DeviceTensor, to_device
from resonnx_server.runtime.device_state import RowGraph
from resonnx_server.runtime.session import CPU, Array, Candidate, Session

STATES = {"state_0": (2,), "state_1": (1, 3)}
FEATURES = {"feature_0": (2, 2)}


@dataclass(eq=False)
class Owner:
    rows: list[int] = field(default_factory=list)


class Counted:
    """A graph that puts rows in order, and how often it ran."""

    def __init__(self, graph: RowGraph) -> None:
        self.graph, self.runs = graph, 0

    def __call__(self, *arguments: object) -> list[DeviceTensor]:
        self.runs += 1
        return self.graph(*arguments)


@pytest.fixture(scope="module")
def graphs() -> tuple[RowGraph, RowGraph]:
    tensors = {"token": (), **STATES, **FEATURES}
    inputs = [helper.make_tensor_value_info(n, TensorProto.DOUBLE, ["rows", *s]) for n, s in tensors.items()]
    decoder = helper.make_model(helper.make_graph([], "decoder", inputs, []))
    files = row_graphs(decoder.SerializeToString())
    opened = (
        Session(files[f"{kind}_rows.onnx"], Candidate(CPU, pb.PRECISION_FP32), 1) for kind in ("state", "feature")
    )
    return tuple(map(RowGraph, opened, (STATES, FEATURES)))  # type: ignore[return-value]


class Pair:
    """Host slots and device slots, to which the same happens."""

    def __init__(self, capacity: int, graphs: tuple[RowGraph, RowGraph]) -> None:
        state = [np.zeros((1, *shape)) for shape in STATES.values()]
        features = [np.zeros((1, *shape)) for shape in FEATURES.values()]
        self.order = tuple(map(Counted, graphs))
        self.host: Slots[Owner, Array] = host_slots(capacity, state, features)
        self.device: Slots[Owner, DeviceTensor] = device_slots(capacity, *map(_up, (state, features)), *self.order)
        self.owners: list[tuple[Owner, Owner]] = []

    def batch(self, rng: np.random.Generator, rows: int) -> list[tuple[list[Array], list[Array]]]:
        """An encoder batch, for each of the two."""
        state = [rng.random((rows, *shape)) for shape in STATES.values()]
        features = [rng.random((rows, *shape)) for shape in FEATURES.values()]
        return [(state, features), (_up(state), _up(features))]

    def join(self, batch: list[tuple[list[Array], list[Array]]], row: int, tokens: list[int]) -> None:
        both = Owner(), Owner()
        for slots, owner, (state, features) in zip(self._slots(), both, batch, strict=True):
            slots.join(owner, tokens, state, features, row)
        self.owners.append(both)

    def leave(self, both: tuple[Owner, Owner]) -> None:
        for slots, owner in zip(self._slots(), both, strict=True):
            slots.leave(owner)
        self.owners.remove(both)

    def advance(self, both: tuple[Owner, Owner], sources: list[int], tokens: list[int]) -> None:
        for slots, owner in zip(self._slots(), both, strict=True):
            slots.advance(owner, sources, tokens)

    def step(self, rng: np.random.Generator, size: int) -> None:
        """What both would be fed is the same; then both get the states that a step might give."""
        used = len(self.host)
        tokens, state, features = self.host.inputs(size)
        device_tokens, device_state, device_features = self.device.inputs(size)
        assert tokens[:used].tolist() == device_tokens[:used].tolist()
        assert len(device_tokens) == size
        for mine, other in zip((*device_state, *device_features), (*state, *features), strict=True):
            assert mine.rows == len(mine.value.numpy()) == size
            assert np.array_equal(mine.value.numpy()[:used], other[:used])
        assert [mine.rows for mine, _ in self.owners] == [other.rows for _, other in self.owners]
        after = [rng.random((size, *shape)) for shape in STATES.values()]
        self.host.store(after)
        self.device.store(_up(after))

    def step_alone(self, rng: np.random.Generator, both: tuple[Owner, Owner], size: int) -> None:
        """Likewise for the rows of one owner by themselves."""
        mine, other = (slots.inputs_of(owner, size) for slots, owner in zip(self._slots(), both, strict=True))
        assert mine[0].tolist() == other[0].tolist()
        for array, tensor in zip((*mine[1], *mine[2]), (*other[1], *other[2]), strict=True):
            assert np.array_equal(array, tensor.value.numpy())
        after = [rng.random((size, *shape)) for shape in STATES.values()]
        self.host.store_of(both[0], after)
        self.device.store_of(both[1], _up(after))

    def clear_free(self) -> None:
        """Free rows hold values that a decoder accepts."""
        for slots in self._slots():
            slots.clear_free()
        used, size = len(self.host), self.host.capacity
        if used:
            tokens, state, features = self.device.inputs(size)
            assert not tokens[used:].any()
            for tensor in (*state, *features):
                array = tensor.value.numpy()
                assert all(np.array_equal(row, array[0]) for row in array[used:])

    def _slots(self) -> tuple[Slots[Owner, object], Slots[Owner, object]]:
        return self.host, self.device  # type: ignore[return-value]


def _up(arrays: list[Array]) -> list[DeviceTensor]:
    return [to_device(array, "cpu") for array in arrays]


@given(st.integers(0, 2**32), st.integers(2, 24))
def test_any_schedule_gives_the_rows_of_host_slots(graphs: tuple[RowGraph, RowGraph], seed: int, capacity: int) -> None:
    """Several batches join between two steps, some of whose pictures come later; some leave before their first step."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    pair = Pair(capacity, graphs)
    waiting: list[tuple[list, int]] = []
    for _ in range(40):
        what, room = rng.random(), capacity - len(pair.host)
        if what < 0.2:
            rows = rng.randrange(1, 5)
            batch = pair.batch(numbers, rows)
            waiting += [(batch, row) for row in range(rows)]
        elif what < 0.45 and room and waiting:
            tokens = rng.choices(range(99), k=rng.choice([1, 1, rng.randrange(1, room + 1)]))
            pair.join(*waiting.pop(rng.randrange(len(waiting))), tokens)
        elif what < 0.55 and pair.owners:
            pair.leave(rng.choice(pair.owners))
        elif what < 0.75 and pair.owners:
            both = rng.choice(pair.owners)
            beams = rng.randrange(1, len(both[0].rows) + room + 1)
            sources = rng.choices(range(len(both[0].rows)), k=beams)
            pair.advance(both, sources, rng.choices(range(99), k=beams))
        elif what < 0.85 and pair.owners:
            both = rng.choice(pair.owners)
            pair.step_alone(numbers, both, len(both[0].rows) + rng.randrange(3))
        elif what < 0.9:
            pair.clear_free()
        else:
            pair.step(numbers, rng.randrange(max(1, len(pair.host)), capacity + 1))
    pair.step(numbers, capacity)
    while pair.owners:
        pair.leave(pair.owners[0])
    assert len(pair.device) == 0


def test_a_step_in_which_nothing_changed_copies_nothing(graphs: tuple[RowGraph, RowGraph]) -> None:
    rng = np.random.default_rng(0)
    pair = Pair(8, graphs)
    runs = lambda: tuple(order.runs for order in pair.order)  # noqa: E731
    batch = pair.batch(rng, 3)
    for row in range(3):
        pair.join(batch, row, [row, row])
    pair.step(rng, 8)
    assert runs() == (1, 1), "one batch joins by one run, whatever its rows"
    for _ in range(3):
        for both in pair.owners:
            pair.advance(both, [0, 1], [3, 4])
        pair.step(rng, 8)
    assert runs() == (1, 1)
    first_state, first_features = pair.device.inputs(8)[1:]
    second_state, second_features = pair.device.inputs(8)[1:]
    assert all(mine is other for mine, other in zip(first_state, second_state, strict=True))
    assert all(mine is other for mine, other in zip(first_features, second_features, strict=True))
    pair.advance(pair.owners[1], [1, 0], [3, 4])
    pair.step(rng, 8)
    assert runs() == (1, 1), "beams that go on, if in another order, stay in their rows"
    pair.advance(pair.owners[1], [1, 1], [3, 4])
    pair.step(rng, 8)
    assert runs() == (2, 1), "beams of one picture share its features"
    pair.leave(pair.owners[2])
    pair.step(rng, 8)
    assert runs() == (2, 1), "no row moves when the last rows are freed"
    pair.step(rng, 4)
    assert runs() == (3, 2), "a smaller step"
    two = pair.batch(rng, 1), pair.batch(rng, 2)
    for batch in two:
        pair.join(batch, 0, [5])
    pair.step(rng, 6)
    assert runs() == (5, 4), "each batch that joins is one run"


def test_rows_stay_as_they_were_when_ordering_fails(graphs: tuple[RowGraph, RowGraph]) -> None:
    rng = np.random.default_rng(1)
    pair = Pair(4, graphs)
    pair.join(pair.batch(rng, 1), 0, [1])
    works = pair.order[0].graph

    def fails(*_: object) -> list[DeviceTensor]:
        raise RuntimeError("no memory is left on the device")

    pair.order[0].graph = fails  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="no memory"):
        pair.device.inputs(2)
    pair.order[0].graph = works
    pair.step(rng, 2)


def test_full_slots_take_no_caption(graphs: tuple[RowGraph, RowGraph]) -> None:
    rng = np.random.default_rng(2)
    pair = Pair(2, graphs)
    batch = pair.batch(rng, 1)
    pair.join(batch, 0, [1])
    late = Owner()
    with pytest.raises(IndexError, match="2 decode slots"):
        pair.device.join(late, [4, 5], *batch[1], 0)
    pair.device.leave(late)
    pair.step(rng, 2)
