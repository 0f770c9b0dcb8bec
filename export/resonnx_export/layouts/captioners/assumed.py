"""The properties of captioners that keys and shapes do not show, and the values that a user may state with --assume."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from resonnx_export.assumptions.assumption import OWN_MODULE, Assumption
from resonnx_export.errors import BadInput

_ACTIVATIONS: Final = ("none", "relu", "tanh")
# Values of each property; the side of attention-map may be another number.
AXES: Final[Mapping[str, tuple[str, ...]]] = {
    "head-activation": _ACTIVATIONS,
    "encoder-activation": _ACTIVATIONS,
    "cell-input": ("word-picture", "picture-word"),
    "picture-output": ("word", "dropped"),
    "picture-first": ("no", "yes"),
    "state-input": ("encoder", "features"),
    "state-activation": _ACTIVATIONS,
    "rnn-activation": ("tanh", "relu"),
    "attention-activation": ("relu", "tanh"),
    "attention-gate": ("sigmoid", "none"),
    "attention-map": ("14", "none", "7", "8"),
}
_MAX_SIDE: Final = 64


@dataclass
class Assumed:
    """Takes values, the user's or a layout's, and lists what was taken."""

    given: Mapping[str, str]
    taken: list[Assumption] = field(default_factory=list)

    def __call__(self, name: str, default: str) -> str:
        """Return the value of a property of AXES, `default` if the user states none. Raises BadInput if unknown."""
        value = self.given.get(name, default)
        side = name == "attention-map" and value.isascii() and value.isdigit() and 1 <= int(value) <= _MAX_SIDE
        if value not in AXES[name] and not side:
            more = f", a number up to {_MAX_SIDE}" if name == "attention-map" else ""
            raise BadInput(f"--assume {name}={value}: {name} takes {', '.join(AXES[name])}{more}, not {value!r}")
        others = tuple(other for other in AXES[name] if other != value)
        self.taken.append(Assumption(name, value, f"--assume {name}=VALUE", others, confirmed=name in self.given))
        return value

    def of_cells(self) -> None:
        """List what the weights of PyTorch's recurrent cells imply, and no option changes."""
        self.taken.append(Assumption("cells", "gates in PyTorch's order, no dropout", OWN_MODULE))

    def check(self, layout: str) -> None:
        """Raise BadInput if the user states a property that is unknown, or that this layout does not have."""
        if unused := sorted(self.given.keys() - {each.name for each in self.taken}):
            names = ", ".join(each.name for each in self.taken if each.name in AXES) or "none"
            name, value = unused[0], self.given[unused[0]]
            raise BadInput(f"--assume {name}={value}: layout {layout} has no {name!r}; it has {names}")
