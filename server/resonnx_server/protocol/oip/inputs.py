"""Checks a tensor request against its model, and reads its inputs. Errors name the input and the expected value."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from resonnx_proto.inference import grpc_service_pb2 as pb

from resonnx_server.errors import InvalidInput
from resonnx_server.inference.registry import Model
from resonnx_server.inference.tasks import VIDEO
from resonnx_server.inference.tensors import Tensors
from resonnx_server.memory.regions import Place
from resonnx_server.protocol.oip import contents, describe
from resonnx_server.protocol.oip.clips import check_clips
from resonnx_server.protocol.oip.contents import InputTensor, field_of
from resonnx_server.protocol.oip.request import InferRequest
from resonnx_server.protocol.oip.shared_memory import REGION, FindPlace, no_shared_memory, place_of
from resonnx_server.protocol.pieces import Pieces, Work, at_once
from resonnx_server.runtime.session import Array

# Limits of contents that are read on the event loop, in a fraction of a millisecond.
_SMALL_ELEMENTS: Final = 1 << 10
_SMALL_BYTES: Final = 1 << 20
_SMALL_WRITTEN: Final = 1 << 14
# Memory of a string in an array, beside its own bytes.
_STRING_BYTES: Final = 64

_MAX_RANK: Final = 8
# Without sizes of 0: of an empty tensor NumPy multiplies the others as well.
_MAX_ELEMENTS: Final = 2**31 - 1

_Shape = tuple[int, ...]


async def read_inputs(
    request: InferRequest,
    model: Model,
    pieces: Pieces,
    hold: Callable[[int], None] = lambda _: None,
    find: FindPlace = no_shared_memory,
) -> Tensors:
    """Decode a request's inputs by name; BYTES become objects, each bytes.

    Names, shapes and datatypes are checked before an element is read; many elements are read on a thread. A picture
    model has two inputs, of which one is returned: `image` if a client sends both.

    Args:
        request: The request.
        model: Takes the inputs.
        pieces: The thread that reads many elements.
        hold: Charges the bytes that arrays of strings, typed contents and shared memory take beside the message, before
            they are made.
        find: Finds bytes of shared memory.

    Raises:
        InvalidInput: They are not the model's inputs, or their contents do not fit.
        MemorySpent: The memory budget is spent.
    """
    # A list, as iterating over the message's own is slower. One more than allowed shows that there are too many.
    given = request.message.inputs[: _count_inputs(model) + 1]
    _check_names([tensor.name for tensor in given], model)
    raw = request.raw
    are_shared = [REGION in tensor.parameters for tensor in given]
    own = are_shared.count(False)
    if raw and len(raw) != own:
        where = f"{own} inputs" if own == len(given) else f"{own} inputs outside shared memory"
        raise InvalidInput("raw_input_contents", f"{len(raw)} entries for {where}; give one each, or none")
    next_raw = iter(raw)
    # Generators, of which none begins before all inputs are checked.
    reading: dict[str, Work[Array]] = {}
    elements = size = held = 0
    for i, (tensor, is_shared) in enumerate(zip(given, are_shared, strict=True)):
        shape, dtype = _shape_of(tensor), _dtype_of(tensor)
        if model.manifest is None:
            shape = _check_tensor(tensor, shape, dtype, model)
        elif model.task is VIDEO:
            shape = check_clips(tensor, shape, dtype, model)
        else:
            _check_picture(tensor, shape, dtype, model)
        if is_shared:
            place = _place(i, tensor, request, find)
            contents.check_size(place.size, shape, dtype, tensor)
            count = math.prod(shape) if dtype.hasobject else 0
            elements, size, held = elements + count, size + place.size, held + place.size + count * _STRING_BYTES
            reading[tensor.name] = contents.from_place(place, shape, dtype, tensor)
            continue
        content, written = next(next_raw, None), request.written.get(i)
        if content is None or dtype.hasobject:
            elements += (count := math.prod(shape))
            # More elements than bytes are refused before an array is made.
            held += min(count, request.size) * (_STRING_BYTES if dtype.hasobject else dtype.itemsize)
        if written is not None:
            size, held = size + written.nbytes, held + written.nbytes
            reading[tensor.name] = written.read(shape, dtype, are_files=model.manifest is not None)
        elif content is not None:
            # It may have to be copied.
            size += len(content) if dtype.itemsize > 1 and not dtype.hasobject else 0
            is_typed = _has_typed(request, i)
            reading[tensor.name] = contents.from_raw(content, shape, dtype, tensor, is_typed=is_typed)
        else:
            reading[tensor.name] = contents.from_contents(request.typed.get(i), shape, dtype, tensor)
    if model.manifest is not None and describe.IMAGE in reading:
        reading.pop(describe.ENCODED_IMAGE.name, None)
    most = _SMALL_WRITTEN if request.written else _SMALL_BYTES
    if elements > _SMALL_ELEMENTS or own < len(given) or (request.written and size > most):
        hold(held)
    work = _read(reading)
    return at_once(work) if elements <= _SMALL_ELEMENTS and size <= most else await pieces.run(work)


def _has_typed(request: InferRequest, index: int) -> bool:
    """Whether an input has typed contents. MLServer's client sends empty ones beside raw contents."""
    tensor = request.message.inputs[index]
    return bool(request.typed.get(index)) or (tensor.HasField("contents") and bool(tensor.contents.ListFields()))


def _place(index: int, tensor: InputTensor, request: InferRequest, find: FindPlace) -> Place:
    """Return where an input lies in shared memory."""
    if _has_typed(request, index):
        raise InvalidInput(f"{field_of(tensor)}.contents", f"must not be set beside {REGION}")
    return place_of(tensor.parameters, field_of(tensor), find)


def _read(reading: Mapping[str, Work[Array]]) -> Work[Tensors]:
    arrays: Tensors = {}
    for name, work in reading.items():
        arrays[name] = yield from work
    return arrays


def _check_names(names: list[str], model: Model) -> None:
    """Raise InvalidInput unless `names` are of the model's inputs, each once, and no required one is missing."""
    # The most frequent case, without a search.
    if names == [spec.name for spec in model.inputs]:
        return
    expected = describe.inputs(model)
    known = sorted(each.spec.name for each in expected)
    seen: set[str] = set()
    for name in names:
        if name not in known:
            raise InvalidInput("inputs", f"{name[:64]!r} is not one of {known}")
        if name in seen:
            raise InvalidInput(f"inputs[{name!r}]", "given twice")
        seen.add(name)
    required = {each.spec.name for each in expected if not each.is_optional}
    if missing := sorted(required - seen):
        raise InvalidInput("inputs", f"{missing[0]!r} is missing; the model takes {known}")
    if not names:
        raise InvalidInput("inputs", f"none is given; the model takes one of {known}")


def _check_picture(tensor: InputTensor, shape: _Shape, dtype: np.dtype[Any], model: Model) -> None:
    """Raise InvalidInput unless it is an input of picture files or pixels that the model takes."""
    spec, name = model.inputs[0], tensor.name
    rows, row = shape[0] if shape else 0, shape[1:]
    if rows > model.max_queue_size:
        raise InvalidInput(f"{field_of(tensor)}.shape", f"{rows} rows, more than {model.max_queue_size}")
    if dtype == spec.dtype and name == describe.IMAGE:
        if rows < 1 or row != spec.shape[1:]:
            taken = ", ".join(str(size) for size in spec.shape[1:])
            raise InvalidInput(f"{field_of(tensor)}.shape", f"{list(shape)}; UINT8 must be [N, {taken}] with N >= 1")
    elif not dtype.hasobject:
        taken = "UINT8 pixels or BYTES files" if name == describe.IMAGE else "BYTES files; UINT8 pixels are 'image'"
        raise InvalidInput(f"{field_of(tensor)}.datatype", f"{describe.DATATYPES[dtype]}; the model takes {taken}")
    elif rows < 1 or row not in ((), (1,)):
        raise InvalidInput(f"{field_of(tensor)}.shape", f"{list(shape)}; BYTES must be [N] or [N, 1] with N >= 1")


def _check_tensor(tensor: InputTensor, shape: _Shape, dtype: np.dtype[Any], model: Model) -> _Shape:
    """Return the shape in which a bare model's graph takes an input.

    Raises:
        InvalidInput: It takes no such input.
    """
    is_optional = False
    spec = next((spec for spec in model.inputs if spec.name == tensor.name), None)
    if spec is None:
        spec, is_optional = next(spec for spec in model.optional_inputs if spec.name == tensor.name), True
    batched = model.max_batch_size > 0 and not is_optional
    if dtype != spec.dtype:
        raise InvalidInput(
            f"{field_of(tensor)}.datatype",
            f"{describe.DATATYPES[dtype]}; the model takes {describe.DATATYPES[spec.dtype]}",
        )
    taken, rank = describe.shape(spec, batched=batched), len(spec.shape)
    # The graph's own rank is accepted too: a number a row as [N] as well as [N, 1].
    if len(shape) not in (rank, len(taken)) or any(
        size not in (-1, given) for size, given in zip(taken, shape, strict=False)
    ):
        raise InvalidInput(f"{field_of(tensor)}.shape", f"{list(shape)}; the model takes {taken}")
    _check_sizes(shape, tensor)
    if batched and shape[0] > model.max_queue_size:
        raise InvalidInput(f"{field_of(tensor)}.shape", f"{shape[0]} rows, more than {model.max_queue_size}")
    return shape[:rank]


def checked_tensors(inputs: Tensors, model: Model) -> Tensors:
    """Return a bare model's inputs in its order. Raises InvalidInput unless they are one batch that is not empty."""
    if model.max_batch_size:
        rows = {spec.name: len(inputs[spec.name]) for spec in model.inputs}
        if len({*rows.values()}) > 1:
            raise InvalidInput("inputs", f"batch sizes differ: {rows}")
        if 0 in rows.values():
            raise InvalidInput("inputs", "the batch is empty")
        most, given = model.max_batch_size, max(rows.values())
        if overrides_initializers(inputs, model) and given > most:
            raise InvalidInput("inputs", f"{given} rows with optional inputs, which run in one batch: {most} at most")
        if not model.shares_batches and given > most:
            raise InvalidInput("inputs", f"{given} rows, which run in one batch: {most} at most (max_batch_size)")
    specs = (*model.inputs, *model.optional_inputs)
    return {spec.name: inputs[spec.name] for spec in specs if spec.name in inputs}


def overrides_initializers(inputs: Tensors, model: Model) -> bool:
    """Whether a request replaces initializers of a bare graph."""
    return len(inputs) > len(model.inputs)


def wanted_outputs(request: pb.ModelInferRequest, model: Model) -> list[str]:
    """Return the names of the requested outputs; all if none is named."""
    names = [spec.name for spec in model.outputs]
    if not request.outputs:
        return names
    if len(request.outputs) > len(names):
        raise InvalidInput("outputs", f"{len(request.outputs)} are requested; the model has {len(names)}")
    asked: set[str] = set()
    for output in request.outputs:
        if output.name in asked:
            raise InvalidInput("outputs", f"{output.name[:64]!r} is requested twice")
        asked.add(output.name)
        if output.name not in names:
            raise InvalidInput("outputs", f"{output.name[:64]!r} is not one of {names}")
    return [output.name for output in request.outputs]


def _count_inputs(model: Model) -> int:
    """Return how many inputs a request may give."""
    return len(model.inputs) + (2 if model.manifest is not None else len(model.optional_inputs))


def _shape_of(tensor: InputTensor) -> tuple[int, ...]:
    """Return an input's shape, of any sizes. Raises InvalidInput for too many axes."""
    shape = tuple(tensor.shape[: _MAX_RANK + 1])
    if len(shape) > _MAX_RANK:
        raise InvalidInput(f"{field_of(tensor)}.shape", f"{len(tensor.shape)} dimensions, more than {_MAX_RANK}")
    return shape


def _check_sizes(shape: tuple[int, ...], tensor: InputTensor) -> None:
    """Raise InvalidInput for negative sizes, or too many elements."""
    if any(size < 0 for size in shape):
        raise InvalidInput(f"{field_of(tensor)}.shape", f"size {min(shape)} is negative")
    if math.prod(size or 1 for size in shape) > _MAX_ELEMENTS:
        raise InvalidInput(f"{field_of(tensor)}.shape", f"{list(shape)} is over {_MAX_ELEMENTS} elements")


def _dtype_of(tensor: InputTensor) -> np.dtype[Any]:
    """Return an input's dtype; BYTES are objects. Raises InvalidInput for an unknown datatype."""
    dtype = describe.DTYPES.get(tensor.datatype)
    if dtype is None:
        raise InvalidInput(
            f"{field_of(tensor)}.datatype", f"{tensor.datatype[:32]!r} is not one of {', '.join(describe.DTYPES)}"
        )
    return dtype
