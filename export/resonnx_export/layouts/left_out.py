"""Tells the tensors of a state_dict that are no weights of the network: losses, metrics, counters."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from torch import Tensor

from resonnx_export.networks.detect import CheckpointMismatch

_LISTED: Final = 6
# Words in the names of losses, metrics and training; their tensors do not take part in inference.
_TRAINING: Final = frozenset(
    (
        *("criterion", "criterions", "criteria", "loss", "losses", "ce", "bce", "focal", "metric", "metrics", "acc"),
        *("accuracy", "auroc", "auc", "f1", "precision", "recall", "confmat", "queue", "averaged"),
    )
)
_WORDS: Final = re.compile(r"[._]")
_WEIGHTS: Final = re.compile(r"(?:class|pos)_weights?|cross_entropy|confusion_matrix", re.IGNORECASE)
# Single numbers that change the logits.
_SCALES: Final = re.compile(r"(?:^|[._])(?:temperature|logit_scale|scale|gem|p|alpha|s|tau|gamma)$", re.IGNORECASE)
_NORMALISATION: Final = re.compile(r"(?:^|[._])(?:mean|std|pixel_mean|pixel_std)$")


def is_left_out(key: str, value: Tensor) -> bool:
    """Tell whether a tensor beside the trunk is known to be no weight of the network."""
    if not value.is_floating_point():
        return True
    if value.numel() == 1 and not _SCALES.search(key) and value.ndim < 2 and not key.endswith((".weight", ".bias")):
        return True
    words = _WORDS.split(key.lower())
    return not _TRAINING.isdisjoint(words) or bool(_WEIGHTS.search(key)) or is_normalisation(key, value)


def is_normalisation(key: str, value: Tensor) -> bool:
    """Tell whether a tensor is a mean or a standard deviation of colours, which a network normalises pictures with."""
    return value.numel() in (1, 3) and bool(_NORMALISATION.search(key))


def told(left_out: Mapping[str, Tensor]) -> list[str]:
    """Return lines for the user about tensors that were left out, but for counters, which mean nothing to users."""
    lines = []
    means = {key: value for key, value in left_out.items() if is_normalisation(key, value)}
    names = [key for key in left_out if key not in means and not key.endswith(("num_batches_tracked", "n_averaged"))]
    if names:
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        lines.append(f"left out, as no weights of the network: {', '.join(names[:_LISTED])}{more}")
    for key, value in means.items():
        numbers = ", ".join(f"{number:.4g}" for number in value.flatten().tolist())
        lines.append(
            f"the file has {key} = {numbers}: the network may normalise pictures itself; compare --mean, --std"
        )
    return lines


def refuse_the_rest(keys: Iterable[str]) -> None:
    """Raise CheckpointMismatch if tensors are left that are neither of the network nor known to be of none."""
    if unexpected := [key for key in keys if not key.endswith("num_batches_tracked")]:
        raise CheckpointMismatch("tensors beside the ResNet and its head are not known", unexpected=unexpected)
