"""The shapes, and small values, of what ONNX operators make of constants."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

# More elements than any shape has; larger constants are known by their shapes only.
MOST_VALUES: Final = 64
# Sides are 64-bit integers.
_MOST_ELEMENTS: Final = 1 << 63


class Constant(NamedTuple):
    """The shape of a constant, and the values of a small one, flat; None if they are not known."""

    shape: tuple[int, ...]
    values: np.ndarray | None = None

    @property
    def elements(self) -> int:
        """Their number."""
        return math.prod(self.shape)


def made(operator: str, inputs: Sequence[Constant], attributes: Mapping[str, Any]) -> Constant | None:
    """Return the first output of a node of constants; None if it is not known, or no shape."""
    rule = _RULES.get(operator)
    try:
        with np.errstate(all="ignore"):
            found = None if rule is None else rule(inputs, attributes)
    except (ArithmeticError, IndexError, TypeError, ValueError):
        return None
    return None if found is None or any(not 0 <= side < _MOST_ELEMENTS for side in found.shape) else found


def _constant(inputs: Sequence[Constant], attributes: Mapping[str, Any]) -> Constant | None:
    value = next(iter(attributes.values()), None)
    if isinstance(value, np.ndarray):
        return Constant(() if "value_int" in attributes else value.shape, value)
    return value if isinstance(value, Constant) else None


def _sides(constant: Constant) -> tuple[int, ...]:
    """Return the values of a shape. Raises TypeError if they are not known."""
    if constant.values is None:
        raise TypeError("unknown")
    return tuple(int(value) for value in constant.values)


def _broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    longest = max(map(len, shapes))
    padded = [(1,) * (longest - len(shape)) + shape for shape in shapes]
    return tuple(0 if 0 in sides else max(sides) for sides in zip(*padded, strict=True))


def _range(inputs: Sequence[Constant], attributes: Mapping[str, Any]) -> Constant:
    start, limit, delta = (float(each.values[0]) for each in inputs if each.values is not None)
    return Constant((max(0, math.ceil((limit - start) / delta)),))


def _tile(inputs: Sequence[Constant], attributes: Mapping[str, Any]) -> Constant:
    return Constant(tuple(side * count for side, count in zip(inputs[0].shape, _sides(inputs[1]), strict=True)))


def _product(inputs: Sequence[Constant], attributes: Mapping[str, Any]) -> Constant:
    left, right = (each.shape for each in inputs)
    return Constant((*_broadcast(left[:-2], right[:-2]), *left[-2:-1], *(right[-1:] if len(right) > 1 else ())))


def _joined(inputs: Sequence[Constant], attributes: Mapping[str, Any]) -> Constant:
    values = np.concatenate([each.values for each in inputs if each.values is not None and len(each.shape) == 1])
    return Constant((len(values),), values if len(values) <= MOST_VALUES else None)


def _elementwise(compute: Callable[..., Any] | None) -> "_Rule":
    def rule(inputs: Sequence[Constant], attributes: Mapping[str, Any]) -> Constant:
        shape = _broadcast(*(each.shape for each in inputs))
        known = [each.values for each in inputs if each.values is not None]
        if compute is None or len(known) < len(inputs) or math.prod(shape) > MOST_VALUES or len(shape) > 1:
            return Constant(shape)
        return Constant(shape, np.broadcast_to(compute(*known), math.prod(shape)))

    return rule


_Rule = Callable[[Sequence[Constant], Mapping[str, Any]], Constant | None]
_RULES: Final[Mapping[str, _Rule]] = {
    "Constant": _constant,
    "ConstantOfShape": lambda inputs, _: Constant(_sides(inputs[0])),
    "Expand": lambda inputs, _: Constant(_broadcast(inputs[0].shape, _sides(inputs[1]))),
    "Tile": _tile,
    "Range": _range,
    "MatMul": _product,
    "Concat": _joined,
    "Shape": lambda inputs, _: Constant((len(inputs[0].shape),), np.array(inputs[0].shape, np.int64)),
    **{name: lambda inputs, _: inputs[0] for name in ("Identity", "Cast")},
    # Of one or more dimensions; small ones are shapes.
    **{name: lambda inputs, _: Constant((inputs[0].elements,), inputs[0].values) for name in ("Unsqueeze", "Squeeze")},
    **{name: _elementwise(compute) for name, compute in (("Add", np.add), ("Sub", np.subtract), ("Mul", np.multiply))},
    **{
        name: _elementwise(None)
        for name in ("Div", "Pow", "Max", "Min", "Sum", "Mean", "Where", "Equal", "Less", "Greater")
    },
}
