"""Divides a video classifier's other layers: before the recurrent ones, the scores of frames, and the head."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from resonnx_export.layouts.heads import Head, Layer, head_of
from resonnx_export.layouts.video.cells import RecurrentLayers
from resonnx_export.networks.detect import CheckpointMismatch

_SCORES: Final = re.compile(r"att|score|query|energy|weight", re.IGNORECASE)
_LISTED: Final = 6


@dataclass(frozen=True)
class Stages:
    """The layers with weights beside the ResNet and the cells.

    Attributes:
        before: Between a frame's features and the cells; None if the cells read the features.
        scores: Of a frame's output, for attention over time; None without attention.
        head: From the pooled output to the logits.
        backward: Whether the head reads the backward direction's state alone.
        unused: Names of layers that the network does not use.
    """

    before: Head | None
    scores: Head | None
    head: Head
    backward: bool = False
    unused: tuple[str, ...] = ()


def divided(
    first: Sequence[Layer], last: Sequence[Layer], size: int, cells: RecurrentLayers, own_head: str | None
) -> Stages:
    """Divide the layers.

    Args:
        first: Layers whose keys are before the cells', or in the encoder's file.
        last: The others.
        size: Of a frame's features.
        cells: The recurrent layers.
        own_head: The name of the ResNet's own head, which may be unused.

    Raises:
        CheckpointMismatch: The layers do not follow one another.
    """
    dropped = tuple(layer for layer in first if own_head and f"{layer.name}.".startswith(f"{own_head}."))
    kept = _without(first, dropped)
    everything = [*first, *last]
    ways: list[tuple[Sequence[Layer], Sequence[Layer], tuple[Layer, ...]]] = [(first, last, ()), (kept, last, dropped)]
    # Code may register its layers in another order than it uses them.
    ways += [(everything[:count], everything[count:], ()) for count in range(len(everything) + 1)]
    for before, after, unused in ways:
        if (stages := _stages(before, after, size, cells, tuple(layer.name for layer in unused))) is not None:
            return stages
    listed = ", ".join(f"{layer.name} [{layer.outputs}, {layer.inputs}]" for layer in everything[:_LISTED]) or "none"
    raise CheckpointMismatch(
        f"the layers beside the recurrent ones do not lead from a frame's {size} features to their {cells.inputs} "
        f"inputs, and from their {cells.width} outputs to classes: {listed}"
    )


def _stages(
    before: Sequence[Layer], after: Sequence[Layer], size: int, cells: RecurrentLayers, unused: tuple[str, ...]
) -> Stages | None:
    first = head_of(before, size, "") if before else None
    if (first is None) != (not before) or (first.layers[-1].outputs if first else size) != cells.inputs:
        return None
    if (head := head_of(after, cells.width, "")) is not None:
        return Stages(first, None, head, unused=unused)
    if cells.bidirectional and (head := head_of(after, cells.hidden[-1], "")) is not None:
        return Stages(first, None, head, backward=True, unused=unused)
    found = []
    for count in (1, 2):
        for chosen in combinations([layer for layer in after if layer.kind == "linear"], count):
            scores = head_of(chosen, cells.width, "")
            rest = _without(after, chosen)
            if scores is not None and scores.layers[-1].outputs == 1 and (head := head_of(rest, cells.width, "")):
                found.append(Stages(first, scores, head, unused=unused))
    named = [each for each in found if each.scores and all(_SCORES.search(layer.name) for layer in each.scores.layers)]
    return next(iter(named or found), None)


def _without(layers: Sequence[Layer], others: Sequence[Layer]) -> list[Layer]:
    # By identity: layers of two files may have the same name, and tensors have no truth value.
    return [layer for layer in layers if not any(layer is each for each in others)]
