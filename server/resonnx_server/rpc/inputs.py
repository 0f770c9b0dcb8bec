"""What a tensor request must be for the model that it asks for; errors name the input and what the model takes."""

from typing import Final

import numpy as np
from resonnx_proto.inference import grpc_service_pb2 as pb

from resonnx_server.engine.model import Model
from resonnx_server.engine.runner import Tensors
from resonnx_server.errors import InvalidInput
from resonnx_server.rpc import describe, tensors
from resonnx_server.runtime.images import Pixels
from resonnx_server.runtime.session import Array

IMAGE: Final = "inputs['image']"


def checked_files(image: Array, model: Model) -> list[bytes]:
    """Return the picture files of BYTES [N] or [N,1]. Raises InvalidInput."""
    _check_rows(image, model)
    if image.ndim not in (1, 2) or (image.ndim == 2 and image.shape[1] != 1) or image.size == 0:
        raise InvalidInput(f"{IMAGE}.shape", f"{list(image.shape)}; BYTES must be [N] with N >= 1")
    files: list[bytes] = image.ravel().tolist()
    return files


def checked_pixels(image: Array, model: Model) -> Pixels:
    """Return `image` if it is UINT8 [N,H,W,3] of the model's size. Raises InvalidInput."""
    assert model.manifest is not None
    _check_rows(image, model)
    recipe = model.manifest.input
    if image.dtype != np.uint8:
        raise InvalidInput(
            f"{IMAGE}.datatype", f"{tensors.datatype(image.dtype)}; the model takes UINT8 pixels or BYTES files"
        )
    if image.ndim != 4 or image.shape[1:] != (recipe.height, recipe.width, 3) or len(image) == 0:
        raise InvalidInput(
            f"{IMAGE}.shape", f"{list(image.shape)}; UINT8 must be [N, {recipe.height}, {recipe.width}, 3] with N >= 1"
        )
    return image


def _check_rows(image: Array, model: Model) -> None:
    if image.ndim and len(image) > model.max_queue_size:
        raise InvalidInput(f"{IMAGE}.shape", f"{len(image)} rows, more than {model.max_queue_size}")


def checked_tensors(inputs: Tensors, model: Model) -> Tensors:
    """Return a bare model's inputs as its graph takes them, or raise InvalidInput naming what does not fit."""
    rows = {}
    for spec in model.inputs:
        array, field = inputs[spec.name], f"inputs[{spec.name!r}]"
        if array.dtype != spec.dtype:
            raise InvalidInput(
                f"{field}.datatype", f"{tensors.datatype(array.dtype)}; the model takes {tensors.datatype(spec.dtype)}"
            )
        shape = describe.shape(spec)
        if len(array.shape) != len(shape) or any(
            size not in (-1, given) for size, given in zip(shape, array.shape, strict=True)
        ):
            raise InvalidInput(f"{field}.shape", f"{list(array.shape)}; the model takes {shape}")
        if model.max_batch_size:
            rows[spec.name] = len(array)
    if len(set(rows.values())) > 1:
        raise InvalidInput("inputs", f"batch sizes differ: {rows}")
    if max(rows.values(), default=0) > model.max_queue_size:
        raise InvalidInput("inputs", f"{max(rows.values())} rows, more than {model.max_queue_size}")
    if 0 in rows.values():
        raise InvalidInput("inputs", "the batch is empty")
    # ONNX Runtime takes str for string tensors.
    return {
        name: np.array([_decoded(v, name) for v in array.ravel()], object).reshape(array.shape)
        if array.dtype == object
        else array
        for name, array in inputs.items()
    }


def _decoded(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidInput(f"inputs[{name!r}]", "a string element is not UTF-8") from None


def check_names(inputs: Tensors, model: Model) -> None:
    """Raise InvalidInput unless the inputs are those of the model."""
    expected = {spec.name for spec in model.inputs}
    if inputs.keys() == expected:
        return
    if missing := sorted(expected - inputs.keys()):
        raise InvalidInput("inputs", f"{missing[0]!r} is missing; the model takes {sorted(expected)}")
    if unknown := sorted(inputs.keys() - expected):
        raise InvalidInput("inputs", f"{unknown[0][:64]!r} is not one of {sorted(expected)}")


def wanted_outputs(request: pb.ModelInferRequest, model: Model) -> list[str]:
    """Return the names of the outputs that a request asks for, all where it names none."""
    names = [spec.name for spec in model.outputs]
    if not request.outputs:
        return names
    if len(request.outputs) > len(names):
        raise InvalidInput("outputs", f"{len(request.outputs)} are asked for; the model has {len(names)}")
    asked: set[str] = set()
    for output in request.outputs:
        if output.name in asked:
            raise InvalidInput("outputs", f"{output.name[:64]!r} is asked for twice")
        asked.add(output.name)
        if output.name not in names:
            raise InvalidInput("outputs", f"{output.name[:64]!r} is not one of {names}")
        if "shared_memory_region" in output.parameters:
            raise InvalidInput(f"outputs[{output.name!r}].parameters", "shared memory is not supported")
    return [output.name for output in request.outputs]
