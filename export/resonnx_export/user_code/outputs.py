"""Finds the logits in what a module returns: a tensor, an object with `.logits`, a mapping or a sequence."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from torch import Tensor, nn

from resonnx_export.errors import BadInput

# A step into an output: an attribute's or key's name, or a position.
Path = tuple[str | int, ...]

_LISTED: Final = 6


class Logits(nn.Module):
    """A module, followed by the way to the logits [N,K] in its output."""

    def __init__(self, module: nn.Module, path: Path) -> None:
        super().__init__()
        self.module, self.path = module, path

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures [N,C,H,W] to logits [N,K]."""
        return follow(self.module(x), self.path).flatten(1)


def follow(output: Any, path: Path) -> Tensor:
    """Return the part of a module's output at a path."""
    for step in path:
        attribute = isinstance(step, str) and not isinstance(output, Mapping)
        output = getattr(output, str(step)) if attribute else output[step]
    return output  # type: ignore[no-any-return]


def find_logits(output: object, rows: int, classes: int | None) -> Path:
    """Return the path to the logits of an output for `rows` pictures.

    `.logits` or ["logits"] is taken if there is one, else the only tensor with one value per row and class.

    Raises:
        BadInput: There are no such tensors, or several; the message lists those found.
    """
    tensors = dict(_tensors(output))
    rowed = {path: tensor for path, tensor in tensors.items() if _is_logits(tensor, rows)}
    if not rowed:
        raise BadInput(f"the module does not return one row of logits [N,K] a picture, but {_listed(output, tensors)}")
    if ("logits",) in rowed:
        return ("logits",)
    if len(rowed) == 1:
        return next(iter(rowed))
    fitting = [path for path, tensor in rowed.items() if classes in (None, tensor.shape[1])]
    if len(fitting) == 1:
        return fitting[0]
    number = f"{len(fitting)} outputs" + ("" if classes is None else f" of {classes} classes")
    raise BadInput(
        f"the module returns {number}: {_listed(output, tensors)}; wrap it in a "
        "function or class that returns the one to serve"
    )


def _tensors(output: object) -> Iterator[tuple[Path, Tensor]]:
    if isinstance(output, Tensor):
        yield (), output
    elif isinstance(output, Mapping):
        yield from (((key,), value) for key, value in output.items() if isinstance(value, Tensor))
    elif hasattr(output, "_asdict"):
        yield from (((key,), value) for key, value in output._asdict().items() if isinstance(value, Tensor))
    elif isinstance(output, Sequence):
        yield from (((i,), value) for i, value in enumerate(output) if isinstance(value, Tensor))
    elif isinstance(getattr(output, "logits", None), Tensor):
        yield ("logits",), output.logits  # type: ignore[attr-defined]


def _is_logits(tensor: Tensor, rows: int) -> bool:
    return tensor.ndim >= 2 and len(tensor) == rows and tensor.shape[1] > 0 and set(tensor.shape[2:]) <= {1}


def _listed(output: object, tensors: Mapping[Path, Tensor]) -> str:
    if () in tensors:
        return f"a tensor {list(tensors[()].shape)}"
    found = ", ".join(f"{path[0]} {list(tensor.shape)}" for path, tensor in list(tensors.items())[:_LISTED])
    return f"a {type(output).__name__}{f' with {found}' if found else ''}"
