"""What keys and shapes of captioners and video classifiers do not show, and the values that --assume takes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from resonnx_export.assumptions.assumption import OWN_MODULE, Assumption
from resonnx_export.assumptions.axes import BY_NAME
from resonnx_export.assumptions.reading import assumptions_of, with_values
from resonnx_export.errors import BadInput
from resonnx_export.networks.resnet import ResNetConfig

_ACTIVATIONS: Final = ("none", "relu", "tanh", "leaky_relu", "gelu", "silu", "elu", "sigmoid")
# Values of each property; the side of attention-map may be another number.
AXES: Final[Mapping[str, tuple[str, ...]]] = {
    "head-activation": _ACTIVATIONS,
    "encoder-activation": _ACTIVATIONS,
    "cell-input": ("word-picture", "picture-word"),
    "picture-output": ("word", "dropped"),
    "picture-first": ("no", "yes"),
    "state-input": ("encoder", "features"),
    "state-activation": ("none", "tanh", "relu", "sigmoid"),
    "rnn-activation": ("tanh", "relu"),
    "residual": ("no", "yes"),
    "resnet": ("caffe", "torchvision"),
    "attention-activation": ("relu", "tanh"),
    "attention-gate": ("sigmoid", "none"),
    "attention-map": ("14", "none", "7", "8"),
    # Of video classifiers.
    "projection-activation": _ACTIVATIONS,
    "pooled-activation": _ACTIVATIONS,
    "pooling": ("last", "states", "mean", "max"),
}
_MAX_SIDE: Final = 64
_OPTION: Final = "--assume {}=VALUE"
# Options of their own, of properties that --assume takes too.
_OWN_OPTIONS: Final = {"residual": "--residual", "resnet": "--VALUE-resnet"}


@dataclass
class Assumed:
    """Chooses values of properties, and lists the choices.

    Attributes:
        given: The user's values by name.
        recorded: Values that the file has, which the user's must not contradict.
        taken: The choices so far.
    """

    given: Mapping[str, str]
    recorded: Mapping[str, str] = field(default_factory=dict)
    taken: list[Assumption] = field(default_factory=list)

    def __call__(self, name: str, default: str, values: Sequence[str] = ()) -> str:
        """Return the value of a property of AXES, `default` if neither the user nor the file states one.

        `values` are those of this network, if not all of them.

        Raises:
            BadInput: The property has no such value, or the file has another.
        """
        self._check_recorded(name)
        value = self.given.get(name, self.recorded.get(name, default))
        side = name == "attention-map" and value.isascii() and value.isdigit() and 1 <= int(value) <= _MAX_SIDE
        known_values = values or AXES[name]
        if value not in known_values and not side:
            more = f", a number up to {_MAX_SIDE}" if name == "attention-map" else ""
            raise BadInput(f"--assume {name} takes {', '.join(known_values)}{more}, not {value!r}")
        others = tuple(other for other in known_values if other != value)
        known = self.given.keys() | self.recorded.keys()
        option = _OWN_OPTIONS.get(name, _OPTION.format(name))
        self.taken.append(Assumption(name, value, option, others, confirmed=name in known))
        return value

    def _check_recorded(self, name: str) -> None:
        given, recorded = self.given.get(name), self.recorded.get(name)
        if given is not None and recorded is not None and given != recorded:
            raise BadInput(f"--assume {name}={given} contradicts the file, which has {recorded}; leave it out")

    def trunk(
        self, config: ResNetConfig, layout: str, *, pooled: bool = True, known: Collection[str] = ()
    ) -> ResNetConfig:
        """Return a captioner's ResNet with the user's values, and list its properties.

        Args:
            config: As the keys and shapes show it.
            layout: The captioner's layout.
            pooled: Whether the captioner reads the features, not the map.
            known: Names of properties that another option states.

        Raises:
            BadInput: As with_values.
        """
        for name in self.recorded:
            self._check_recorded(name)
        stated = {**self.recorded, **self.given}
        usable = {name: value for name, value in stated.items() if name in BY_NAME and name not in AXES}
        if not pooled:
            usable.pop("global-pool", None)
        config = with_values(replace(config, num_classes=0), usable)
        for each in assumptions_of(config, layout, {**usable, **dict.fromkeys(known, "")}):
            if pooled or each.name != "global-pool":
                self.taken.append(replace(each, option=_OPTION.format(each.name)))
        return config

    def of_cells(self) -> None:
        """List what the weights of PyTorch's recurrent cells imply, and no option changes."""
        self.taken.append(Assumption("cells", "gates in PyTorch's order, no dropout", OWN_MODULE))

    def check(self, layout: str) -> None:
        """Raise BadInput if the user states a property that is unknown, or that this layout does not have."""
        if unused := sorted(self.given.keys() - {each.name for each in self.taken}):
            names = ", ".join(each.name for each in self.taken if each.option == _OPTION.format(each.name))
            raise BadInput(f"layout {layout} has no property {unused[0]!r}; --assume takes {names}")
