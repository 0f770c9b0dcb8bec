"""IO binding against plain runs for the decoder step, on the CPU provider: ms a step, its states stored.

    python benchmarks/caption_binding.py [--rounds 5] [--json FILE]

plain    session.run on views of the slots' buffers, and the next states copied into them: what the engine does
bound    inputs and outputs bound once for each number of rows, outputs to buffers that are there already; states copied
swapped  bound likewise to two sets of state buffers that take turns, so that nothing is copied

All three take turns step by step, and a ratio is to plain in the same round.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from captioners.decoders import EncodedPictures, captioner_files, open_graphs, random_pictures, rows_of
from reports.rounds import Rounds
from resonnx_server.runtime.machine.host import usable_cores
from resonnx_server.runtime.model_files.manifest import DECODER_FILE
from resonnx_server.runtime.session import CPU, Array

_MODELS: Final = ("lstm_int8", "attention_int8")
_ROWS: Final = (1, 4, 16, 64)
_WAYS: Final = ("plain", "bound", "swapped")
_SECONDS: Final = 0.5
_TOP: Final = 16


class Steps:
    """A decoder's step of so many rows in three ways.

    Args:
        session: The decoder.
        pictures: Where the rows come from.
        rows: How many.
    """

    def __init__(self, session: ort.InferenceSession, pictures: EncodedPictures, rows: int) -> None:
        self._session = session
        self._tokens = np.arange(rows)
        self._states = [rows_of(pictures.state, rows) for _ in range(2)]
        self._features = rows_of(pictures.features, rows)
        self._fetched = ["top_ids", "top_log_probs", *(f"next_state_{i}" for i in range(len(pictures.state)))]
        self._top: list[Array] = [np.empty((rows, _TOP), np.int64), np.empty((rows, _TOP), np.float32)]
        self._next = [np.empty_like(state) for state in self._states[0]]
        self._bound = self._bind(self._states[0], self._next)
        self._swapped = [self._bind(*self._states), self._bind(*self._states[::-1])]

    def plain(self) -> None:
        """Step by `run`."""
        feeds = {"token": self._tokens} | self._inputs(self._states[0])
        _, _, *after = self._session.run(self._fetched, feeds)
        self._store(after)

    def bound(self) -> None:
        """Step by a binding whose outputs are always the same buffers."""
        self._session.run_with_iobinding(self._bound)
        self._store(self._next)

    def swapped(self) -> None:
        """Step by one of two bindings, from one set of states to the other."""
        self._session.run_with_iobinding(self._swapped[0])
        self._swapped.reverse()

    def _store(self, states: list[Array]) -> None:
        for buffer, state in zip(self._states[0], states, strict=True):
            buffer[:] = state

    def _inputs(self, states: list[Array]) -> dict[str, Array]:
        named = {f"state_{i}": state for i, state in enumerate(states)}
        return named | {f"feature_{i}": feature for i, feature in enumerate(self._features)}

    def _bind(self, before: list[Array], after: list[Array]) -> Any:
        binding = self._session.io_binding()
        for name, array in ({"token": self._tokens} | self._inputs(before)).items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in zip(self._fetched, [*self._top, *after], strict=True):
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        return binding


def open_decoder(model: bytes) -> ort.InferenceSession:
    """Open a decoder as the server does; its own Session has no binding."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model, options, providers=[CPU])


def step_ms(steps: Steps) -> dict[str, float]:
    """Return the median time of a step in each way."""
    ways: dict[str, Callable[[], None]] = {"plain": steps.plain, "bound": steps.bound, "swapped": steps.swapped}
    times: dict[str, list[float]] = {way: [] for way in ways}
    until = time.perf_counter() + _SECONDS
    while time.perf_counter() < until:
        for way, step in ways.items():
            begun = time.perf_counter()
            step()
            times[way].append(time.perf_counter() - begun)
    return {way: median(values) * 1e3 for way, values in times.items()}


def main() -> int:
    """Measure; print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write every round's figures")
    given = parser.parse_args()
    figures = Rounds("model", "rows", "ms a step")
    steps: dict[tuple[str, str], Steps] = {}
    for model in _MODELS:
        files = captioner_files(model)
        pictures = EncodedPictures(open_graphs(files), random_pictures(files, 16))
        session = open_decoder(files.files[DECODER_FILE])
        for rows in _ROWS:
            steps[model, str(rows)] = Steps(session, pictures, rows)
    for _ in range(given.rounds):
        for row, step in steps.items():
            for way, value in step_ms(step).items():
                figures.add(*row, way, value=value)
    figures.show({(*row, way): (*row, "plain") for row in steps for way in _WAYS[1:]})
    if given.json:
        figures.write(given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
