"""The classification extension: an output's best classes, chosen and written in pieces (see pieces.py)."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from resonnx_server.errors import InvalidInput
from resonnx_server.runtime.bfloat16 import comparable
from resonnx_server.runtime.session import Array

# Triton's bound.
MAX_CLASSES: Final = 1_000_000
# Values ranked, and classes written, at once: about a millisecond.
_RANKED: Final = 1 << 17
_WRITTEN: Final = 1 << 10

Keys = npt.NDArray[np.integer[Any]]


def ranked_shape(shape: tuple[int, ...], top_k: int, *, batched: bool) -> tuple[int, ...]:
    """Return the shape of an output's best classes: [N,k] if batched, else [k]; k is `top_k` or all, if fewer."""
    rows = shape[0] if batched else 1
    classes = 1
    for size in shape[1:] if batched else shape:
        classes *= size
    k = min(top_k, classes)
    return (rows, k) if batched else (k,)


def check_classes(count: int) -> None:
    """Raise InvalidInput if more than MAX_CLASSES are requested in total."""
    if count > MAX_CLASSES:
        raise InvalidInput("outputs", f"classification requests {count} classes in total, more than {MAX_CLASSES}")


def best_classes(array: Array, top_k: int, labels: Sequence[str], *, batched: bool) -> Iterator[list[bytes] | None]:
    """Find an output's best classes, each as "<value>:<index>[:<label>]"; equal values by index, NaN last.

    Args:
        array: Numbers, [N, ...] if batched.
        top_k: Number of classes, or all if there are fewer.
        labels: Names by class index; classes without one, or with an empty one, have none.
        batched: Each row is classified on its own.

    Yields:
        Classes, row by row; None after other work.
    """
    array = comparable(array)
    rows = array.reshape(len(array), -1) if batched else array.reshape(1, -1)
    k = min(top_k, rows.shape[1])
    for row in rows:
        best: npt.NDArray[np.intp] | None = None
        for best in _ranked(row, k):
            if best is None:
                yield None
        assert best is not None
        for start in range(0, k, _WRITTEN):
            indices = best[start : start + _WRITTEN]
            ranked = zip(row[indices].tolist(), indices.tolist(), strict=True)
            yield [f"{value:.6f}:{index}{_suffix(labels, index)}".encode() for value, index in ranked]


def _suffix(labels: Sequence[str], index: int) -> str:
    return f":{labels[index]}" if index < len(labels) and labels[index] else ""


def _ranked(row: Array, k: int) -> Iterator[npt.NDArray[np.intp] | None]:
    """Yield None between pieces, and last the indices of the k best values, best first."""
    kept, indices = _keys(row[:0]), np.empty(0, np.intp)
    step = max(_RANKED, k)
    for start in range(0, len(row), step):
        keys = _keys(row[start : start + step])
        kept = np.concatenate((kept, keys))
        indices = np.concatenate((indices, np.arange(start, start + len(keys))))
        if len(kept) > k:
            chosen = _least(kept, k)
            kept, indices = kept[chosen], indices[chosen]
            yield None
    # They are in order of index: a stable sort keeps that among equals.
    yield indices[np.argsort(kept, kind="stable")]


def _keys(values: Array) -> Keys:
    """Return integers that ascend as `values` descend, equal where those are."""
    if values.dtype == bool:
        return 1 - values.view(np.int8)
    if values.dtype.kind != "f":
        return np.invert(values)
    # With 0 added, -0.0 is 0.0. The bits of positive numbers ascend with them, those of negative ones descend.
    bits = (values + values.dtype.type(0)).view(f"i{values.itemsize}")
    keys: Keys = np.invert(bits ^ ((bits >> (8 * values.itemsize - 1)) & np.iinfo(bits.dtype).max))
    keys[np.isnan(values)] = np.iinfo(bits.dtype).max
    return keys


def _least(keys: Keys, k: int) -> npt.NDArray[np.intp]:
    """Return where the k least keys are, ascending; of those that equal the last, the first."""
    last = np.partition(keys, k - 1)[k - 1]
    less, equal = np.flatnonzero(keys < last), np.flatnonzero(keys == last)
    chosen = np.concatenate((less, equal[: k - len(less)]))
    chosen.sort()
    return chosen
