"""Finds the ResNets in a state_dict, under any names, and gives their tensors torchvision's names."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from torch import Tensor

from resonnx_export.errors import BadInput
from resonnx_export.layouts.names import below, joined, modules_of

# The first convolution of a block in one of several stages whose names differ by a number: "layer1", "4", "conv2_x".
_BLOCK: Final = re.compile(
    r"(?:(?P<parent>.*)\.)?(?P<before>[^.\d]*\d*?)(?P<number>\d{1,4})(?P<after>[^.\d][^.]*)?\.(?P<block>\d{1,4})\.conv1\.weight"
)
# More than any file has.
_MAX_GROUPS, _MAX_STAGES = 16, 128
_STEM: Final = ("conv1", "bn1")
# A deep stem: three convolutions with BatchNorm.
_DEEP_CONVOLUTIONS: Final = ("conv1.0", "conv1.3", "conv1.6")
_DEEP_NORMS: Final = ("conv1.1", "conv1.4", "bn1")


@dataclass(frozen=True)
class Trunk:
    """A ResNet without its head.

    Attributes:
        path: The name of the module that holds it, "" for the whole state_dict.
        modules: The names of modules, in the state_dict and torchvision's; they include those of their parts.
    """

    path: str
    modules: Mapping[str, str]

    def own_name(self, key: str) -> str | None:
        """Return torchvision's name of a key; None if the tensor is not of this trunk."""
        module = key.rpartition(".")[0]
        while module:
            if module in self.modules:
                return self.modules[module] + key[len(module) :]
            module = module.rpartition(".")[0]
        return None


@dataclass(frozen=True)
class _Stage:
    parent: str
    number: int
    name: str
    outputs: int


def trunks_in(state_dict: Mapping[str, Tensor]) -> list[Trunk]:
    """Find the ResNets in a state_dict whose blocks have torchvision's names. Raises BadInput for more than 16."""
    groups: dict[tuple[str | None, ...], list[_Stage]] = {}
    seen = set()
    for key in state_dict:
        if (match := _BLOCK.fullmatch(key)) and (name := key[: match.start("block") - 1]) not in seen:
            seen.add(name)
            last = next(
                other for number in (3, 2, 1) if (other := f"{name}.{match['block']}.conv{number}.weight") in state_dict
            )
            shape = state_dict[last].shape
            stage = _Stage(match["parent"] or "", int(match["number"]), name, shape[0] if shape else 0)
            groups.setdefault((match["parent"], match["before"], match["after"]), []).append(stage)
    if len(groups) > _MAX_GROUPS or len(seen) > _MAX_STAGES:
        raise BadInput(f"{len(seen)} modules look like the stages of ResNets; at most {_MAX_STAGES} are read")
    # A stem named "conv1" in two nn.Sequential looks like a block of a stage, in which the ResNet's stages are.
    around = {start for name in seen for start in _ancestors(name) if start != name}
    groups = {
        key: kept for key, group in groups.items() if (kept := [each for each in group if each.name not in around])
    }
    stages = [sorted(group, key=lambda stage: stage.number) for group in groups.values()]
    everything = sorted((stage for group in stages for stage in group), key=lambda stage: stage.outputs)
    if len(stages) > 1 and all(after.outputs == 2 * before.outputs for before, after in pairwise(everything)):
        # One network, cut into several modules.
        stages = [everything]
    modules = modules_of(state_dict)
    taken = {stage.name for group in stages for stage in group}
    free = [name for name in modules if name and not any(name.startswith(f"{stage}.") for stage in taken)]
    return [_trunk(group, state_dict, free) for group in stages]


def _trunk(stages: Sequence[_Stage], state_dict: Mapping[str, Tensor], free: Sequence[str]) -> Trunk:
    path = _common([stage.parent for stage in stages])
    names = _stage_names(stages)
    for place in _ancestors(path):
        here = [name for name in free if below(place, name)]
        if stem := dict(_stem(place, here, state_dict, stages[0].outputs)):
            return Trunk(path, names | stem)
    return Trunk(path, names)


def _stage_names(stages: Sequence[_Stage]) -> dict[str, str]:
    cut = len({stage.parent for stage in stages}) > 1
    named = [stage.name.rpartition(".")[2] for stage in stages]
    first = stages[0].number
    # Numbers keep their gaps, which are told.
    kept = all(name.startswith("layer") for name in named) and first > 0
    numbers = [
        number if cut else stage.number if kept else stage.number - first + 1
        for number, stage in enumerate(stages, start=1)
    ]
    return {stage.name: f"layer{number}" for stage, number in zip(stages, numbers, strict=True)}


def _stem(place: str, here: Sequence[str], state_dict: Mapping[str, Tensor], outputs: int) -> Iterator[tuple[str, str]]:
    """Yield the stem's modules at a place."""
    conventional = joined(place, "conv1")
    convolutions = [name for name in here if _is_stem_convolution(state_dict.get(f"{name}.weight"))]
    if conventional in here and not any(name.startswith(f"{conventional}.") for name in convolutions):
        convolutions = [conventional]
    if not convolutions:
        return
    convolutions.sort(key=_natural)
    deep = len(convolutions) == len(_DEEP_CONVOLUTIONS)
    named = _DEEP_CONVOLUTIONS if deep else _STEM[:1]
    normed = _DEEP_NORMS if deep else _STEM[1:]
    norms = [name for name in here if _is_norm(name, state_dict)]
    for convolution, name, norm in zip(convolutions, named, normed, strict=False):
        yield convolution, name
        if found := _norm_of(convolution, norms, state_dict):
            norms.remove(found)
            yield found, norm


def _is_stem_convolution(weight: Tensor | None) -> bool:
    return weight is not None and weight.ndim == 4 and weight.shape[2] > 1


def _is_norm(name: str, state_dict: Mapping[str, Tensor]) -> bool:
    weight = state_dict.get(f"{name}.weight")
    return f"{name}.running_mean" in state_dict if weight is None else weight.ndim == 1


def _norm_of(convolution: str, norms: Sequence[str], state_dict: Mapping[str, Tensor]) -> str | None:
    """Return the normalisation that follows a convolution: by its name, or else the first of its width."""
    name = convolution
    while name:
        parent, _, last = name.rpartition(".")
        guesses = [last.replace("conv", "bn"), last.replace("conv", "norm"), "bn1", "bn", "norm"]
        guesses += [str(int(last) + 1)] if last.isdecimal() and len(last) < 4 else []
        for guess in guesses:
            if (found := joined(parent, guess)) in norms:
                return found
        name = parent
    shape = state_dict[f"{convolution}.weight"].shape
    weights = ((norm, state_dict.get(f"{norm}.weight")) for norm in norms)
    return next((norm for norm, weight in weights if weight is not None and weight.shape == shape[:1]), None)


def _common(paths: Sequence[str]) -> str:
    split = [path.split(".") for path in paths]
    shared = []
    for segments in zip(*split, strict=False):
        if len(set(segments)) > 1:
            break
        shared.append(segments[0])
    return ".".join(shared)


def _ancestors(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""


def _natural(name: str) -> list[tuple[int, str]]:
    """Return the order of names with numbers in them."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d{1,9})", name)]
