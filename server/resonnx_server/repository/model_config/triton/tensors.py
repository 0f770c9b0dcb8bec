"""Reads the inputs and outputs of a Triton model configuration, with the files of their labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from resonnx_proto.inference import model_config_pb2 as pb

from resonnx_server.declaration import DeclaredTensor, Layout
from resonnx_server.errors import ModelRefused
from resonnx_server.repository.model_config.triton.rules import REFUSED_IF_TRUE
from resonnx_server.repository.model_config.triton.text import Text, place
from resonnx_server.runtime.model_files.files import NotReadable, read_inside

_MOST_TENSORS: Final = 1024
_MOST_AXES: Final = 8
_LARGEST_SIZE: Final = 2**31 - 1
_MAX_LABEL_BYTES: Final = 16 << 20
_LAYOUTS: Final[dict[int, Layout]] = {
    pb.ModelInput.FORMAT_NONE: "",
    pb.ModelInput.FORMAT_NHWC: "NHWC",
    pb.ModelInput.FORMAT_NCHW: "NCHW",
}


def declared_inputs(text: Text, max_batch_size: int) -> tuple[DeclaredTensor, ...]:
    """Return the inputs of a configuration, none if it leaves them to the graph.

    Args:
        text: The configuration.
        max_batch_size: 0 if `dims` contain the batch axis.

    Raises:
        ModelRefused: One is incomplete, contradicts itself, or asks for what is not served.
    """
    _check_names(text, "input", [tensor.name for tensor in text.message.input])
    return tuple(_input(text, number, max_batch_size) for number in range(len(text.message.input)))


def declared_outputs(text: Text, folder: Path) -> tuple[DeclaredTensor, ...]:
    """Return the outputs of a configuration, none if it leaves them to the graph.

    Args:
        text: The configuration.
        folder: The model's, which holds the files of labels.

    Raises:
        ModelRefused: As declared_inputs, or labels cannot be read.
    """
    _check_names(text, "output", [tensor.name for tensor in text.message.output])
    return tuple(_output(text, number, folder) for number in range(len(text.message.output)))


def _input(text: Text, number: int, max_batch_size: int) -> DeclaredTensor:
    tensor = text.message.input[number]
    layout = _LAYOUTS[tensor.format]
    axes = len(tensor.dims) - (0 if max_batch_size else 1)
    if layout and len(tensor.dims) != 3 and axes != 3:
        raise text.refused(
            f"input {tensor.name!r} has the format FORMAT_{layout}, which needs 3 dims beside the batch axis; it has "
            f"{list(tensor.dims)}",
            "input",
            number=number,
        )
    if tensor.optional and max_batch_size:
        raise text.refused(
            f"input {tensor.name!r} is optional, which needs max_batch_size 0: requests that leave it out share no "
            "batch with others",
            "input",
            number=number,
        )
    dims, reshape = _shapes(text, "input", number, tensor)
    where = place(text.fields.line("input", number=number))
    datatype = _datatype(text, "input", number, tensor)
    return DeclaredTensor(tensor.name, datatype, dims, reshape, layout, tensor.optional, where=where)


def _output(text: Text, number: int, folder: Path) -> DeclaredTensor:
    tensor = text.message.output[number]
    dims, reshape = _shapes(text, "output", number, tensor)
    labels: tuple[str, ...] = ()
    if tensor.label_filename:
        try:
            labels = read_labels(folder, tensor.label_filename)
        except ModelRefused as refused:
            raise text.refused(
                f"label_filename of output {tensor.name!r}: {refused.message}", "output", number=number
            ) from None
    return DeclaredTensor(
        tensor.name,
        _datatype(text, "output", number, tensor),
        dims,
        reshape,
        label_file=tensor.label_filename,
        labels=labels,
        where=place(text.fields.line("output", number=number)),
    )


def read_labels(folder: Path, name: str) -> tuple[str, ...]:
    """Return the lines of a file of labels in a model's folder; line k names class k, from 0.

    Raises:
        ModelRefused: It is not a file inside the folder, larger than 16 MiB, or not UTF-8.
    """
    shown = repr(name[:200])
    try:
        content = read_inside(folder, name, _MAX_LABEL_BYTES).decode()
    except FileNotFoundError:
        raise ModelRefused(f"there is no file {shown} in the model's folder") from None
    except OSError as error:
        raise ModelRefused(f"{shown} cannot be read: {error.strerror}") from None
    except NotReadable as error:
        raise ModelRefused(f"{shown} {error}") from None
    except UnicodeDecodeError as error:
        raise ModelRefused(f"{shown} is not UTF-8: byte {error.start}") from None
    return tuple(line.rstrip("\r") for line in content.removesuffix("\n").split("\n"))


def _check_names(text: Text, kind: str, names: Sequence[str]) -> None:
    if len(names) > _MOST_TENSORS:
        raise text.refused(f"{len(names)} {kind}s; {_MOST_TENSORS} are served", kind)
    for number, name in enumerate(names):
        if not name:
            raise text.refused(f"an {kind} has no name", kind, number=number)
        if name in names[:number]:
            raise text.refused(f"{kind} {name!r} is given twice", kind, number=number)


def _datatype(text: Text, kind: str, number: int, tensor: pb.ModelInput | pb.ModelOutput) -> str:
    name = pb.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    if name == "INVALID":
        raise text.refused(f"{kind} {tensor.name!r} has no data_type", kind, number=number)
    return "BYTES" if name == "STRING" else name


def _shapes(
    text: Text, kind: str, number: int, tensor: pb.ModelInput | pb.ModelOutput
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Return the dims of a tensor, and its reshape or None; refuse flags that change answers on the way."""
    for flag, reason in REFUSED_IF_TRUE.items():
        if getattr(tensor, flag, False):
            raise text.refused(f"{kind} {tensor.name!r}: {flag} is not supported: {reason}", kind, number=number)
    dims = tuple(tensor.dims)
    if not dims:
        raise text.refused(f"{kind} {tensor.name!r} has no dims", kind, number=number)
    reshape = tuple(tensor.reshape.shape) if tensor.HasField("reshape") else None
    for field, sizes in (("dims", dims), ("reshape", reshape or ())):
        if len(sizes) > _MOST_AXES:
            raise text.refused(
                f"{kind} {tensor.name!r}: {field} has {len(sizes)} axes; {_MOST_AXES} are served", kind, number=number
            )
        if bad := [size for size in sizes if not (size == -1 or 1 <= size <= _LARGEST_SIZE)]:
            raise text.refused(
                f"{kind} {tensor.name!r}: {field} has the size {bad[0]}; sizes are 1 to {_LARGEST_SIZE}, or -1 for any",
                kind,
                number=number,
            )
    if reshape is not None and _products(dims) != _products(reshape):
        raise text.refused(
            f"{kind} {tensor.name!r}: reshape {list(reshape)} does not hold as many elements as dims {list(dims)}",
            kind,
            number=number,
        )
    return dims, None if reshape == dims else reshape


def _products(sizes: Sequence[int]) -> list[int]:
    """Return the products of sizes between free ones: two shapes of equal products hold the same elements."""
    products = [1]
    for size in sizes:
        if size == -1:
            products.append(1)
        else:
            products[-1] *= size
    return products
