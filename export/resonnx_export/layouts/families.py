"""Names networks that are not exported from their keys, by what their users call them, with the way to export them."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Final

from torch import Tensor

from resonnx_export.errors import BadInput
from resonnx_export.layouts.known_families import NEAR, OTHER_TASKS, SELF_SUPERVISED, Family
from resonnx_export.layouts.other_classifiers import OTHERS, SPECIFIC

# Characters of the keys that are looked at: a network of 1000 layers has half as many.
_MAX_CHARACTERS: Final = 1 << 18
_MAX_NAME: Final = 200
# A network has as many convolutions at least.
_CONVOLUTIONS: Final = 2


class OtherNetwork(BadInput):
    """A checkpoint holds a network that is not exported from its keys.

    Attributes:
        start: The message up to the target; "" if the message names none.
        target: What `resonnx-export module` probably takes for it; "" if no library has it.
    """

    def __init__(self, message: str, target: str = "", start: str = "") -> None:
        super().__init__(message)
        self.target, self.start = target, start

    def named(self, target: str) -> "OtherNetwork":
        """Return the error with the target that is known instead of the probable one."""
        if not self.target:
            return self
        message = f"{self.start}: {command(target)}" if self.start else str(self).replace(self.target, target)
        return OtherNetwork(message, target)


def refuse_other_networks(state_dict: Mapping[str, Tensor]) -> None:
    """Raise OtherNetwork if the keys and shapes are of a network that is known and not exported from its keys."""
    keys = _text(state_dict)
    dimensions = Counter(value.ndim for value in state_dict.values())
    if dimensions[5] and dimensions[5] >= dimensions[4]:
        raise OtherNetwork(_another_task("a video network (3-D convolutions)"))
    for family in OTHER_TASKS:
        if _has(family.keys, keys):
            raise OtherNetwork(_another_task(family.name))
    for name, patterns in SELF_SUPERVISED:
        if _has(patterns, keys) and _is_network(state_dict):
            raise OtherNetwork(
                f"the checkpoint is a self-supervised trunk ({name}) without classes: train a linear layer on it, and "
                "export the trunk with that layer"
            )
    for family in (*SPECIFIC, *NEAR, *OTHERS):
        if _has(family.keys, keys):
            target = family.target if isinstance(family.target, str) else family.target(keys)
            raise _another_network(family, target)
    if _is_network(state_dict) and "running_mean" not in keys and re.search(r"bn\d\.weight", keys):
        raise OtherNetwork(
            "the checkpoint has no running_mean and running_var: either only the parameters were saved, then save the "
            "model's state_dict(); or the network has GroupNorm and no BatchNorm, then export it with its own class: "
            + command("timm:resnet50_gn"),
            "timm:resnet50_gn",
        )


def _text(state_dict: Mapping[str, Tensor]) -> str:
    lines: list[str] = []
    left = _MAX_CHARACTERS
    for key, value in state_dict.items():
        lines.append(_described(key, value))
        left -= len(lines[-1])
        if left < 0:
            break
    return "".join(lines)


def _described(key: str, value: Tensor) -> str:
    """Return the line of a tensor, as the patterns of known_families take it."""
    kernel = " " + "x".join(map(str, value.shape[2:])) if value.ndim == 4 else ""
    return f"\n.{key[:_MAX_NAME]} {value.ndim}d{kernel}"


def _has(patterns: tuple[str, ...], keys: str) -> bool:
    return all(re.search(pattern, keys, re.MULTILINE) for pattern in patterns)


def _is_network(state_dict: Mapping[str, Tensor]) -> bool:
    return sum(value.ndim == 4 for value in state_dict.values()) >= _CONVOLUTIONS


def _another_task(name: str) -> str:
    return (
        f"the checkpoint is {name}, not a classifier; the server also takes ONNX files: put yours into the repository "
        "as NAME/1/model.onnx"
    )


def _another_network(family: Family, target: str) -> OtherNetwork:
    start = f"the checkpoint is {family.name}, which is not built from its keys; export it with its own class"
    # Keys tell the depth at most; variants of one family differ in more.
    guess = "probably" if callable(family.target) else "such as"
    variant = f", {guess} {target} (put the name of your variant there)" if target else ""
    return OtherNetwork(f"{start}{variant}: {command(target)}", target, start)


def command(target: str) -> str:
    """Return the command that exports the checkpoint FILE with its own class."""
    return (
        f"resonnx-export module {target or 'your_file.py:build'} --checkpoint FILE --labels LABELS --repository models "
        "--name NAME"
    )
