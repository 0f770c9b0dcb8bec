"""Nodes of ONNX for linear layers, normalisations, activations and recurrent cells of PyTorch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from resonnx_export.networks.cells import Kind

_OPERATORS: Final[Mapping[Kind, str]] = {"rnn": "RNN", "rnn-relu": "RNN", "gru": "GRU", "lstm": "LSTM"}
# PyTorch has the gates r, z, n and i, f, g, o; ONNX z, r, h and i, o, f, c.
_ORDER: Final[Mapping[Kind, tuple[int, ...]]] = {"rnn": (0,), "rnn-relu": (0,), "gru": (1, 0, 2), "lstm": (0, 3, 1, 2)}
_SQRT_HALF: Final = 0.5**0.5


class Nodes:
    """The nodes of a graph under construction, with their weights. Methods return the name of the added tensor."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._count = 0

    def add(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node with one output."""
        (output,) = self._outputs(kind, inputs, 1, attributes)
        return output

    def constant(self, value: np.ndarray) -> str:
        """Add a weight."""
        self._count += 1
        name = f"weight_{self._count}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def axes(self, *axes: int) -> str:
        """Add a list of axes."""
        return self.constant(np.array(axes, np.int64))

    def is_zero(self, tensor: str) -> str:
        """Add the comparison of floats with 0."""
        return self.add("Equal", [tensor, self.constant(np.array(0, np.float32))])

    def masked(self, mask: str, tensor: str, other: float) -> str:
        """Add the replacement of floats where the mask is false."""
        return self.add("Where", [mask, tensor, self.constant(np.array(other, np.float32))])

    def name(self, tensor: str, output: str) -> None:
        """Give a tensor the name of an output of the graph."""
        self.nodes.append(helper.make_node("Identity", [tensor], [output], name=f"node_{output}"))

    def layers(self, module: nn.Module, x: str) -> str:
        """Add an activation, or the layers of an nn.Sequential of make_head, applied to the last axis of x."""
        for layer in module if isinstance(module, nn.Sequential) else [module]:
            match layer:
                case nn.Linear():
                    x = self.add("MatMul", [x, self.constant(_array(layer.weight).T)])
                    x = x if layer.bias is None else self.add("Add", [x, self.constant(_array(layer.bias))])
                case nn.BatchNorm1d():
                    scale, shift = _affine(layer)
                    x = self.add("Add", [self.add("Mul", [x, self.constant(scale)]), self.constant(shift)])
                case _:
                    x = _ACTIVATIONS[type(layer)](self, layer, x)
        return x

    def recurrent(
        self, kind: Kind, cells: nn.Module, x: str, *, lengths: str = "", start: Sequence[str] = ()
    ) -> tuple[str, list[str]]:
        """Add one layer of cells, a one-layer nn.RNN, GRU or LSTM, over x [T,N,D].

        Args:
            kind: The cells' kind.
            cells: The layer.
            x: Its input.
            lengths: Those of the clips, int32 [N]; "" for all T.
            start: The states [N,H] before the first frame, of one direction; none for zeros.

        Returns:
            The outputs [T,directions,N,H], and the last states [directions,N,H]: the hidden one, and an LSTM's cell.
        """
        order, suffixes = _ORDER[kind], ["", "_reverse"] if cells.bidirectional else [""]

        def stacked(name: str) -> np.ndarray:
            return np.stack([_reordered(_array(getattr(cells, f"{name}_l0{suffix}")), order) for suffix in suffixes])

        weights = [stacked("weight_ih"), stacked("weight_hh")]
        if cells.bias:
            weights.append(np.concatenate([stacked("bias_ih"), stacked("bias_hh")], axis=1))
        inputs = [x, *map(self.constant, weights), *([] if cells.bias else [""]), lengths]
        inputs += [self.add("Unsqueeze", [state, self.axes(0)]) for state in start]
        attributes: dict[str, Any] = {
            "hidden_size": cells.hidden_size,
            "direction": "bidirectional" if cells.bidirectional else "forward",
        }
        if kind == "gru":
            # PyTorch's: the reset gate is applied after the hidden state's matrix.
            attributes["linear_before_reset"] = 1
        if kind == "rnn-relu":
            attributes["activations"] = ["Relu"] * len(suffixes)
        while not inputs[-1]:
            inputs.pop()
        outputs, *states = self._outputs(_OPERATORS[kind], inputs, 3 if kind == "lstm" else 2, attributes)
        return outputs, states

    def joined_directions(self, outputs: str, directions: int) -> str:
        """Add the way from [T,directions,N,H] to [T,N,directions*H]."""
        if directions == 1:
            return self.add("Squeeze", [outputs, self.axes(1)])
        rows = self.add("Transpose", [outputs], perm=[0, 2, 1, 3])
        return self.add("Reshape", [rows, self.constant(np.array([0, 0, -1], np.int64))])

    def _outputs(self, kind: str, inputs: Sequence[str], count: int, attributes: Mapping[str, Any]) -> list[str]:
        self._count += 1
        outputs = [f"{kind.lower()}_{self._count}" + (f"_{number}" if number else "") for number in range(count)]
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=f"node_{outputs[0]}", **attributes))
        return outputs


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().numpy()


def _reordered(values: np.ndarray, order: Sequence[int]) -> np.ndarray:
    gates = np.split(values, len(order))
    return np.concatenate([gates[number] for number in order])


@torch.no_grad()
def _affine(norm: nn.BatchNorm1d) -> tuple[np.ndarray, np.ndarray]:
    """Return a normalisation in evaluation as a factor and a summand."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    shift = norm.bias.double() - norm.running_mean.double() * scale
    return _array(scale), _array(shift)


def _simple(kind: str) -> Callable[[Nodes, Any, str], str]:
    return lambda nodes, layer, x: nodes.add(kind, [x])


def _gelu(nodes: Nodes, layer: Any, x: str) -> str:
    half, one = (nodes.constant(np.array(number, np.float32)) for number in (0.5, 1.0))
    error = nodes.add("Erf", [nodes.add("Mul", [x, nodes.constant(np.array(_SQRT_HALF, np.float32))])])
    return nodes.add("Mul", [nodes.add("Mul", [x, half]), nodes.add("Add", [error, one])])


_ACTIVATIONS: Final[Mapping[type[nn.Module], Callable[[Nodes, Any, str], str]]] = {
    nn.Identity: lambda nodes, layer, x: x,
    nn.ReLU: _simple("Relu"),
    nn.Tanh: _simple("Tanh"),
    nn.Sigmoid: _simple("Sigmoid"),
    nn.SELU: _simple("Selu"),
    nn.LeakyReLU: lambda nodes, layer, x: nodes.add("LeakyRelu", [x], alpha=layer.negative_slope),
    nn.ELU: lambda nodes, layer, x: nodes.add("Elu", [x], alpha=layer.alpha),
    nn.SiLU: lambda nodes, layer, x: nodes.add("Mul", [x, nodes.add("Sigmoid", [x])]),
    nn.GELU: _gelu,
}
