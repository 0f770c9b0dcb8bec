"""The outputs of a batch as those of its requests, and the outputs of a request's parts as one."""

import asyncio
import logging
from collections.abc import Collection, Sequence
from itertools import accumulate, pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from resonnx_server.errors import InferenceFailed
from resonnx_server.observe.incidents import report_incident
from resonnx_server.observe.stats import Timing
from resonnx_server.scheduling.session_pool import Tensors

_log = logging.getLogger(__name__)

# Outputs up to this size are joined on the event loop, in a fraction of a millisecond.
_SMALL_BYTES: Final = 1 << 20


# The first row, the outputs of some rows, and their timing.
Part = tuple[int, Tensors, Timing]


async def joined(parts: list[Part]) -> tuple[Tensors, Timing]:
    """Return a request's outputs, rows in order, and the timing of the part that ended last.

    Raises:
        InferenceFailed: The parts' shapes do not match.
    """
    if len(parts) == 1:
        ((_, outputs, timing),) = parts
        return outputs, timing
    timing = max((timing for _, _, timing in parts), key=lambda timing: timing.end_ns)
    size = sum(array.nbytes for _, outputs, _ in parts for array in outputs.values())
    try:
        return (_in_order(parts) if size <= _SMALL_BYTES else await asyncio.to_thread(_in_order, parts)), timing
    except ValueError as error:
        incident = report_incident(_log, "batches' outputs cannot be joined", error, extra={"parts": len(parts)})
    raise InferenceFailed.hidden(incident, "the model's outputs for some of the rows do not fit the others'")


def _in_order(parts: list[Part]) -> Tensors:
    in_order = [outputs for _, outputs, _ in sorted(parts, key=lambda part: part[0])]
    return {name: np.concatenate([outputs[name] for outputs in in_order]) for name in in_order[0]}


def slices(outputs: Tensors, rows: Sequence[int], size: int) -> list[Tensors]:
    """Return the outputs of each request of a batch of `size`, given their numbers of rows."""
    for array in outputs.values():
        if len(array) != size:
            shapes = {name: array.shape for name, array in outputs.items()}
            raise ValueError(f"a batch of {size} rows was answered with {shapes}")
    if len(rows) == 1 and rows[0] == size:
        return [outputs]
    ends = accumulate(rows, initial=0)
    return [{name: array[start:end] for name, array in outputs.items()} for start, end in pairwise(ends)]


def asked_for(part: Tensors, more: Collection[str], wanted: Collection[str]) -> Tensors:
    """Leave out the outputs `more` that a request does not want; copy its own: a view would keep the whole batch's."""
    return {
        name: array.copy() if name in more else array
        for name, array in part.items()
        if name not in more or name in wanted
    }


def finite_rows(outputs: Tensors, rows: int) -> npt.NDArray[np.bool_] | None:
    """Return for each of the first `rows` whether all its outputs are finite; None if those of all are."""
    finite: npt.NDArray[np.bool_] | None = None
    for array in outputs.values():
        are_finite = np.isfinite(array[:rows])
        # The common case needs no look at single rows. The method `all` runs Python, and takes longer.
        if not np.logical_and.reduce(are_finite, axis=None):
            of_rows: npt.NDArray[np.bool_] = np.logical_and.reduce(are_finite.reshape(rows, -1), axis=1)
            if finite is None:
                finite = of_rows
            else:
                finite &= of_rows
    return finite
