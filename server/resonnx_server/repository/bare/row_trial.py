"""Tries whether the rows of a graph's inputs are independent, so that requests may share a batch.

Three rows run together, one by one and permuted. NaN and infinity are valid outputs.
"""

import logging
import math
from collections.abc import Mapping
from typing import Final

import numpy as np

from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.bfloat16 import BFLOAT16, comparable, from_float32
from resonnx_server.runtime.cancellation import Cancellation
from resonnx_server.runtime.session import Array, Session, TensorSpec, first_line

_log = logging.getLogger(__name__)

# Sizes to try for symbolic axes other than the batch, in this order.
_TRIAL_SIZES: Final = (8, 32, 224, 1)
_ROWS: Final = 3
# Of an output's largest value: batches of other sizes add in another order.
_TOLERANCES: Final = {np.dtype(np.float16): 1e-2, BFLOAT16: 4e-2}
_TOLERANCE: Final = 1e-3
# Bytes of the inputs of a trial run; larger ones are not made.
MOST_BYTES: Final = 1 << 28


class Dependent(Exception):
    """Requests may not share a batch; the message is the reason."""


class CannotRun(Dependent):
    """Several rows, or one, cannot be run."""


def check_shapes(session: Session) -> None:
    """Check that every input and output has rows, as many as the others. Raises Dependent."""
    if not session.inputs:
        raise Dependent("it has no inputs")
    for kind, specs in (("input", session.inputs), ("output", session.outputs)):
        for spec in specs:
            if not spec.shape:
                raise Dependent(f"{kind} {spec.name!r} is a single value, without rows")
    for spec in session.inputs:
        if spec.dtype == object:
            raise Dependent(f"input {spec.name!r} holds strings, which are not tried")
    fixed = {spec.name: spec.shape[0] for spec in session.inputs if isinstance(spec.shape[0], int)}
    if fixed and (len(fixed) < len(session.inputs) or len({*fixed.values()}) > 1):
        sizes = ", ".join(f"{spec.name!r} {list(spec.shape)}" for spec in session.inputs)
        raise Dependent(f"axis 0 of its inputs differs: {sizes}")


def check_rows(session: Session) -> None:
    """Check that rows do not depend on each other.

    Raises:
        Dependent: They do; CannotRun if there are no answers to compare.
        ModelRefused: The load was cancelled.
    """
    is_free = any(not isinstance(axis, int) for spec in session.inputs for axis in spec.shape[1:])
    reasons = []
    for size in _TRIAL_SIZES if is_free else (1,):
        needed = sum(_bytes(spec, size) for spec in session.inputs)
        if needed > MOST_BYTES:
            raise Dependent(
                f"{_ROWS} rows of its inputs have {needed} bytes, more than the {MOST_BYTES} that are tried"
            )
        try:
            return _trial(session, size)
        except (Dependent, ModelRefused):
            raise
        except Exception as error:  # ONNX Runtime's errors share no base class; another size may fit
            Cancellation.check()
            where = f" of size {size}" if is_free else ""
            reasons.append(f"{_ROWS} rows{where}, or one, cannot be run: {first_line(error)}")
            _log.debug("a trial run failed", extra={"size": size, "error": str(error)})
    raise CannotRun(reasons[0])


def _trial(session: Session, size: int) -> None:
    rng = np.random.default_rng(0)
    feeds = {spec.name: _random(rng, spec, size) for spec in session.inputs}
    together = session.run(feeds)
    for name, array in together.items():
        if array.ndim == 0 or len(array) != _ROWS:
            raise Dependent(f"output {name!r} of {_ROWS} rows is {list(array.shape)}")
        if array.size and np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).any():
            raise Dependent(f"output {name!r} of random inputs has no finite value to compare")
    single = [session.run({name: array[row : row + 1] for name, array in feeds.items()}) for row in range(_ROWS)]
    _compare(together, {name: np.concatenate([row[name] for row in single]) for name in together}, "run alone")
    order = np.array([2, 0, 1])
    permuted = session.run({name: array[order] for name, array in feeds.items()})
    _compare({name: array[order] for name, array in together.items()}, permuted, "in another order")


def check_same(session: Session, other: Session) -> None:
    """Check that two sessions answer alike to inputs of the first one's shapes, free axes being 1.

    Raises as check_rows.
    """
    if sum(_bytes(spec, 1, rows=None) for spec in session.inputs) > MOST_BYTES:
        return
    rng = np.random.default_rng(0)
    feeds = {spec.name: _random(rng, spec, 1, rows=None) for spec in session.inputs}
    try:
        _compare(session.run(feeds), other.run(feeds), "with a free batch axis")
    except (Dependent, ModelRefused):
        raise
    except Exception as error:  # as above
        Cancellation.check()
        raise Dependent(f"its inputs cannot be run: {first_line(error)}") from None


def _compare(left: Mapping[str, Array], right: Mapping[str, Array], how: str) -> None:
    for name, array in left.items():
        if not _agree(array, right[name]):
            raise Dependent(f"rows depend on each other: output {name!r} differs for rows {how}")


def _shape(spec: TensorSpec, size: int, rows: int | None) -> tuple[int, ...]:
    shape = tuple(axis if isinstance(axis, int) else size for axis in spec.shape)
    return shape if rows is None else (rows, *shape[1:])


def _bytes(spec: TensorSpec, size: int, rows: int | None = _ROWS) -> int:
    return math.prod(_shape(spec, size, rows)) * spec.dtype.itemsize


def _random(rng: np.random.Generator, spec: TensorSpec, size: int, rows: int | None = _ROWS) -> Array:
    shape = _shape(spec, size, rows)
    if spec.dtype == BFLOAT16:
        return from_float32(rng.standard_normal(shape).astype(np.float32))
    if np.issubdtype(spec.dtype, np.floating):
        return rng.standard_normal(shape).astype(spec.dtype)
    if spec.dtype == np.uint8:
        # Pictures, each with a greatest value of its own, which a network may divide by.
        scales = np.array([256 >> row % _ROWS for row in range(shape[0])])
        return rng.integers(0, scales.reshape(-1, *[1] * (len(shape) - 1)), shape).astype(spec.dtype)
    # Small integers, as they are often indices.
    return rng.integers(0, 2, shape).astype(spec.dtype)


def _agree(left: Array, right: Array) -> bool:
    if left.shape != right.shape:
        return False
    tolerance = _TOLERANCES.get(left.dtype, _TOLERANCE)
    left, right = comparable(left), comparable(right)
    if not np.issubdtype(left.dtype, np.floating):
        return bool((left == right).all())
    finite = np.isfinite(left)
    if not np.array_equal(finite, np.isfinite(right)):
        return False
    scale = float(np.abs(left[finite]).max(initial=0.0))
    return bool((np.abs(left[finite].astype(np.float64) - right[finite]) <= tolerance * scale).all())
