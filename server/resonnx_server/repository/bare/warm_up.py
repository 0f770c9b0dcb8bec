"""Runs the warm-up requests of a config.pbtxt on a model's sessions, before it serves."""

import math
from collections.abc import Sequence

import numpy as np

from resonnx_server.declaration import WarmUp, WarmUpInput
from resonnx_server.errors import ModelRefused
from resonnx_server.repository.model_config.declared_graph import datatype, fits
from resonnx_server.runtime.cancellation import Cancellation
from resonnx_server.runtime.session import Array, Session, TensorSpec, first_line
from resonnx_server.scheduling.session_pool import TensorInstanceGroup, Tensors

_LENGTH_BYTES = 4


def warm_up(samples: Sequence[WarmUp], session: Session, instances: TensorInstanceGroup) -> None:
    """Run all samples on each of the model's sessions.

    Args:
        samples: The requests.
        session: Has the model's inputs, as clients see them.
        instances: The model's sessions.

    Raises:
        ModelRefused: A sample is no request of the model, or its run fails.
    """
    pools = {id(pool): pool for pool in (instances.latency_session, instances.throughput_session)}
    for sample in samples:
        feeds = _feeds(sample, session)
        for pool in pools.values():
            try:
                for _ in range(sample.count):
                    pool.run(feeds)
            except Exception as error:  # ONNX Runtime's errors share no base class
                Cancellation.check()
                raise _refused(sample, f"its run failed: {first_line(error)}") from None


def _feeds(sample: WarmUp, session: Session) -> Tensors:
    """Return the arrays of a sample by input. Raises ModelRefused if they are not the model's."""
    needed = {spec.name: spec for spec in session.inputs}
    known = needed | {spec.name: spec for spec in session.overridable}
    if missing := sorted(needed.keys() - sample.inputs.keys()):
        raise _refused(sample, f"the input {missing[0]!r} is missing")
    if unknown := sorted(sample.inputs.keys() - known.keys()):
        raise _refused(sample, f"the model has no input {unknown[0]!r}")
    return {
        name: _array(sample, known[name], given, is_batched=sample.batch_size > 0 and name in needed)
        for name, given in sample.inputs.items()
    }


def _array(sample: WarmUp, spec: TensorSpec, given: WarmUpInput, *, is_batched: bool) -> Array:
    sizes = spec.shape[int(is_batched) :]
    if given.datatype != datatype(spec.dtype):
        raise _refused(sample, f"input {spec.name!r} is {given.datatype}; the model takes {datatype(spec.dtype)}")
    if not fits(given.dims, sizes) or any(size < 1 for size in given.dims):
        raise _refused(sample, f"input {spec.name!r} has the dims {list(given.dims)}; the model takes {list(sizes)}")
    shape = (*((sample.batch_size,) if is_batched else ()), *given.dims)
    if given.kind == "file":
        return _from_file(sample, spec, given.content, shape)
    if spec.dtype.hasobject:
        return np.full(shape, b"", object)
    if given.kind == "zeros":
        return np.zeros(shape, spec.dtype)
    rng = np.random.default_rng(0)
    if np.issubdtype(spec.dtype, np.floating):
        return rng.standard_normal(shape).astype(spec.dtype)
    # Small integers, as they are often indices.
    return rng.integers(0, 2, shape).astype(spec.dtype)


def _from_file(sample: WarmUp, spec: TensorSpec, content: bytes, shape: tuple[int, ...]) -> Array:
    """Return a raw tensor: of all rows, or of one, which is repeated."""
    count = math.prod(shape)
    if spec.dtype.hasobject:
        strings = _strings(content)
        if strings is None or len(strings) != count:
            raise _refused(sample, f"the file of input {spec.name!r} does not hold {count} strings with their lengths")
        array = np.empty(count, object)
        array[:] = strings
        return array.reshape(shape)
    rows = shape[0] if sample.batch_size else 1
    for repeats in (1, rows):
        if len(content) * repeats == count * spec.dtype.itemsize:
            values = np.frombuffer(content, spec.dtype.newbyteorder("<")).astype(spec.dtype)
            return np.tile(values, repeats).reshape(shape)
    expected = count * spec.dtype.itemsize
    raise _refused(sample, f"the file of input {spec.name!r} has {len(content)} bytes; {list(shape)} has {expected}")


def _strings(content: bytes) -> list[bytes] | None:
    """Return the strings of a raw tensor, each after its length; None if it is damaged."""
    strings, at = [], 0
    while at < len(content):
        end = at + _LENGTH_BYTES + int.from_bytes(content[at : at + _LENGTH_BYTES], "little")
        if end > len(content):
            return None
        strings.append(content[at + _LENGTH_BYTES : end])
        at = end
    return strings


def _refused(sample: WarmUp, reason: str) -> ModelRefused:
    return ModelRefused(f"{sample.where}: model_warmup {sample.name!r}: {reason}")
