"""The layers of a whole pickled module: classes and attributes are data of the file, and no code of it runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from torch import Tensor, nn

from resonnx_export.checkpoints.pickles import Stub
from resonnx_export.checkpoints.unpickle import state_dict_of
from resonnx_export.errors import BadInput

# Classes whose forward() is published: it uses the layers as their attributes say.
_PUBLISHED: Final = (
    *("torch.nn.", "torchvision.models.resnet.", "torchvision.ops.", "timm.models.resnet.", "timm.layers."),
    *("timm.models.layers.", "transformers.models.resnet.modeling_resnet.", "transformers.activations."),
    "fastai.layers.",
)
# Its two pools are side by side, not one after the other.
CONCATENATED: Final = "fastai.layers.AdaptiveConcatPool2d"
_HOOKS: Final = ("_forward_hooks", "_forward_pre_hooks")
_MAX_LAYERS: Final = 100_000
_GREATEST: Final = 1 << 60
_MAX_NAME: Final = 1000


@dataclass(frozen=True)
class Layer:
    """One module of a network, in a file or in memory.

    Attributes:
        name: As in named_modules(); "" for the whole.
        path: Its class, e.g. "torch.nn.modules.conv.Conv2d".
        attributes: Its `__dict__`.
        children: Names of its own modules, in order.
    """

    name: str
    path: str
    attributes: Mapping[str, Any] = field(repr=False)
    children: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The class without its module."""
        return self.path.rpartition(".")[2]

    @property
    def of_torch(self) -> bool:
        """Whether torch.nn has the class."""
        return self.path.startswith("torch.nn.")

    @property
    def published(self) -> bool:
        """Whether forward() is known: that of a class of torch, torchvision, timm or transformers."""
        return self.path.startswith(_PUBLISHED)

    @property
    def replaced(self) -> str | None:
        """What stands beside the class's forward(), or in its place; None if nothing does."""
        if "forward" in self.attributes:
            return "a forward() of its own"
        hooks = (self.attributes.get(name) for name in _HOOKS)
        return "hooks" if any(not isinstance(each, Mapping) or each for each in hooks if each is not None) else None

    def pair(self, name: str, absent: int = 1) -> tuple[int, int]:
        """Return an attribute that is a whole number, or two. Raises BadInput if it is something else."""
        value = self.attributes.get(name)
        found = absent if value is None else value
        first, second = found if isinstance(found, tuple | list) and len(found) == 2 else (found, found)
        if not isinstance(first, int) or not isinstance(second, int):
            raise BadInput(f"the pickled {self.kind} {self.name!r} has {name} {shown(found)}, not two numbers")
        return first, second

    def number(self, name: str, absent: float) -> float:
        """Return an attribute that is a number. Raises BadInput if it is something else."""
        value = self.attributes.get(name, absent)
        if not isinstance(value, float) and not (isinstance(value, int) and abs(value) < _GREATEST):
            raise BadInput(f"the pickled {self.kind} {self.name!r} has {name} {shown(value)}, which is no number")
        return value


@dataclass(frozen=True)
class PickledModule:
    """A module of a checkpoint file.

    Attributes:
        layers: By name, in the file's order; the first is the whole.
        tensors: Its state_dict.
    """

    layers: Mapping[str, Layer]
    tensors: Mapping[str, Tensor]

    @property
    def path(self) -> str:
        """The class of the whole."""
        return self.layers[""].path


def shown(value: object) -> str:
    """Return a value of a file for a message; containers, which may be of any size, by their type."""
    if isinstance(value, str):
        return repr(value[:40])
    plain = value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < _GREATEST)
    return str(value) if plain else f"of the type {type(value).__name__}"


def layer_of(name: str, module: nn.Module) -> Layer:
    """Describe a module in memory as one of a file."""
    kind = type(module)
    children = tuple(child for child, _ in module.named_children())
    return Layer(name, f"{kind.__module__}.{kind.__qualname__}", vars(module), children)


def pickled_module(module: Stub, prefix: str | None) -> PickledModule:
    """Describe a pickled module, or what of it is below a name. Raises BadInput as state_dict_of."""
    below = f"{prefix}." if prefix else ""
    tensors = {name: value for name, value in state_dict_of(module).items() if name.startswith(below)}
    layers = {name: layer for name, layer in _layers(module).items() if not name or f"{name}.".startswith(below)}
    return PickledModule(layers, tensors)


def _layers(module: Stub) -> dict[str, Layer]:
    found: dict[str, Layer] = {}
    waiting: list[tuple[str, Stub]] = [("", module)]
    # Modules may be shared or contain themselves, so that a small file has any number of them.
    while waiting and len(found) < _MAX_LAYERS and len(waiting[-1][0]) < _MAX_NAME:
        name, current = waiting.pop()
        children = {
            child: value
            for child, value in _entries(current.attributes, "_modules")
            if isinstance(child, str) and isinstance(value, Stub) and current.path != CONCATENATED
        }
        found[name] = Layer(name, current.path, current.attributes, tuple(children))
        prefix = f"{name}." if name else ""
        waiting += [(f"{prefix}{child}", value) for child, value in reversed(children.items())]
    return found


def _entries(attributes: Mapping[str, Any], name: str) -> list[tuple[Any, Any]]:
    entries = attributes.get(name)
    return list(entries.items()) if isinstance(entries, Mapping) else []
