"""Finds a classifier's parts in an ONNX graph: the picture, the logits, the features before its last linear layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from onnx import helper
from resonnx_server.runtime.model_files.manifest import MAX_SIDE
from resonnx_server.runtime.session import Session, TensorSpec, first_line

from resonnx_export.errors import BadInput
from resonnx_export.options import Activation
from resonnx_export.pictures.recipe import Size

# Operators that keep the values of each row.
_KEEPING: Final = ("Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Dropout", "Cast")
_ENDS: Final[Mapping[str, Activation]] = {"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid"}
_INTEGER: Final = ("ConvInteger", "MatMulInteger", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_CHANNELS: Final = (3, 1)
_ROWS: Final = 2
_SEED: Final = 3000
# Of a batch of fixed size: more would need gigabytes in each layer.
_MOST_PIXELS: Final = 1 << 26

# The node that computes a tensor, by the tensor's name; none for inputs and constants.
_Producers = Mapping[str, onnx.NodeProto]


@dataclass(frozen=True)
class Form:
    """The parts of a classifier in an ONNX graph, by the names of tensors.

    Attributes:
        input: The picture, float32 [N,C,H,W] or [N,H,W,C].
        channels: 3, or 1 for grey pictures.
        channels_last: Whether the input is [N,H,W,C].
        size: Fixed height and width; None if they are free.
        batch: Fixed N; None if it is free.
        output: The output with a value for each class.
        logits: The same before the activation at the graph's end.
        features: The input of the last linear layer; None if something else makes the logits.
        activation: The one at the graph's end; None if there is none.
    """

    input: str
    channels: int
    channels_last: bool
    size: Size | None
    batch: int | None
    output: str
    logits: str
    features: str | None
    activation: Activation | None

    def given(self, pictures: np.ndarray) -> np.ndarray:
        """Return pictures [N,C,H,W] as the graph takes them."""
        if self.channels_last:
            pictures = pictures.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(pictures.astype(np.float32))


def find_form(model: onnx.ModelProto, session: Session, size: Size, classes: int | None, output: str | None) -> Form:
    """Find the parts of a classifier.

    Args:
        model: The file.
        session: The same, opened.
        size: Of pictures, if the graph leaves it open.
        classes: Number of classes, to choose among several outputs; None if it is not known.
        output: Name of the output with the classes; None to look for it.

    Raises:
        BadInput: It takes no picture, or no output, or several, have a value for each class.
    """
    _check_precision(model)
    spec = _picture(session)
    shape = spec.shape[1:]
    channels_last = shape[0] not in _CHANNELS
    channels = shape[2] if channels_last else shape[0]
    if channels not in _CHANNELS:
        raise BadInput(f"input {spec.name!r} is {list(spec.shape)}; a picture is [N,3,H,W] or [N,H,W,3], grey with 1")
    height, width = shape[:2] if channels_last else shape[1:]
    fixed = Size(height, width) if isinstance(height, int) and isinstance(width, int) else None
    batch = spec.shape[0] if isinstance(spec.shape[0], int) else None
    height, width = fixed or (
        height if isinstance(height, int) else size.height,
        width if isinstance(width, int) else size.width,
    )
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE and (batch or 1) * height * width <= _MOST_PIXELS):
        raise BadInput(
            f"input {spec.name!r} is {list(spec.shape)}; sides are within 1..{MAX_SIDE}, and {_MOST_PIXELS} pixels "
            "a batch are run at most"
        )
    row = (height, width, channels) if channels_last else (channels, height, width)
    try:
        rows, given = _tried(session, spec, row, (batch,) if batch else (_ROWS, 1))
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise BadInput(
            f"the graph cannot be run on pictures of {height}x{width} (--size changes it): {first_line(error)}"
        ) from None
    if rows == 1:
        # Whatever the input says: shapes inside the graph are of one picture.
        batch = 1
    producers = _producers(model)
    chosen = _output(producers, given, rows, classes, output)
    logits, activation = _before_activation(producers, chosen, given[chosen].ndim)
    return Form(
        spec.name,
        int(channels),
        channels_last,
        fixed,
        batch,
        chosen,
        logits,
        _before_linear(producers, logits),
        activation,
    )


def _check_precision(model: onnx.ModelProto) -> None:
    kinds = {node.op_type for node in model.graph.node}
    found = sorted(kind for kind in kinds if kind in _INTEGER or kind.startswith("QLinear"))
    half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
    if found or half:
        what = f"in integers ({found[0]})" if found else "in float16"
        raise BadInput(
            f"the graph computes {what}, too coarsely for a proof to 1e-4: give the float32 file, or put this "
            "one into the repository as it is, without a manifest"
        )


def _picture(session: Session) -> TensorSpec:
    if len(session.inputs) != 1:
        names = ", ".join(repr(spec.name) for spec in session.inputs[:8]) or "none"
        raise BadInput(f"the graph has {len(session.inputs)} inputs ({names}); a classifier takes one, pictures")
    (spec,) = session.inputs
    if spec.dtype != np.float32:
        raise BadInput(
            f"input {spec.name!r} is {spec.dtype}; a network takes prepared pictures, float32. With its "
            "preprocessing inside, put the file into the repository as it is"
        )
    if len(spec.shape) != 4:
        raise BadInput(f"input {spec.name!r} is {list(spec.shape)}; pictures are [N,C,H,W] or [N,H,W,C]")
    return spec


def _tried(
    session: Session, spec: TensorSpec, row: tuple[int, ...], batches: Sequence[int]
) -> tuple[int, Mapping[str, np.ndarray]]:
    """Return the first number of pictures that can be run, and the outputs for noise. Raises as Session.run."""
    for rows in batches:
        pictures = np.random.default_rng(_SEED).standard_normal((rows, *row)).astype(spec.dtype)
        try:
            return rows, session.run({spec.name: pictures})
        except Exception:
            if rows == batches[-1]:
                raise
    raise AssertionError("no batches")


def _output(
    producers: _Producers, given: Mapping[str, np.ndarray], rows: int, classes: int | None, wanted: str | None
) -> str:
    shapes = ", ".join(f"{name!r} {list(array.shape)}" for name, array in given.items())
    if wanted is not None and wanted not in given:
        raise BadInput(f"--output {wanted}: the graph's outputs are {shapes}")
    fitting = {
        name: array.size // rows
        for name, array in given.items()
        if array.ndim >= 2
        and array.shape[0] == rows
        and array.size == rows * array.shape[1]
        and array.size
        and np.issubdtype(array.dtype, np.floating)
    }
    if wanted is not None:
        fitting = {name: count for name, count in fitting.items() if name == wanted}
    elif classes is not None and len(fitting) > 1:
        fitting = {name: count for name, count in fitting.items() if count == classes}
    if not fitting:
        raise BadInput(f"no output has a value for each class, [N, classes]; for {rows} pictures they are {shapes}")
    if len({_before_activation(producers, name, given[name].ndim)[0] for name in fitting}) == 1:
        # Logits and probabilities are both outputs: of these, the probabilities.
        return max(fitting, key=lambda name: _before_activation(producers, name, given[name].ndim)[1] is not None)
    if len(fitting) > 1:
        raise BadInput(f"several outputs have a value for each class: {shapes}; name one with --output")
    return next(iter(fitting))


def _before_activation(producers: _Producers, output: str, rank: int) -> tuple[str, Activation | None]:
    """Return the logits' tensor, and the activation that follows it."""
    name = output
    while (node := producers.get(name)) is not None and node.op_type in _KEEPING:
        name = node.input[0]
    if node is None or node.op_type not in _ENDS or not _is_over_classes(node, rank):
        return output, None
    return node.input[0], _ENDS[node.op_type]


def _is_over_classes(node: onnx.NodeProto, rank: int) -> bool:
    axes = [helper.get_attribute_value(each) for each in node.attribute if each.name == "axis"]
    return node.op_type == "Sigmoid" or not axes or axes[0] == 1 or (axes[0] == -1 and rank == 2)


def _before_linear(producers: _Producers, logits: str) -> str | None:
    name = logits
    while (node := producers.get(name)) is not None and node.op_type in (*_KEEPING, "Add"):
        # MatMul and Add are a linear layer too.
        made = [each for each in node.input if each in producers]
        if node.op_type == "Add" and len(made) != 1:
            return None
        name = made[0] if node.op_type == "Add" else node.input[0]
    if node is None or node.op_type not in ("Gemm", "MatMul"):
        return None
    # A matrix that multiplies from the left is no row of features.
    return str(node.input[0]) if node.input[0] in producers else None


def _producers(model: onnx.ModelProto) -> _Producers:
    return {name: node for node in model.graph.node if node.op_type != "Constant" for name in node.output}
