"""Fits a checkpoint's tensors to the keys and shapes of a module: chooses the container, strips and adds prefixes."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from torch import Tensor

from resonnx_export.checkpoints.containers import averaged_part, is_averaged
from resonnx_export.checkpoints.pickles import Stub
from resonnx_export.checkpoints.unpickle import state_dict_of
from resonnx_export.errors import BadInput
from resonnx_export.networks.detect import CheckpointMismatch

Shape = tuple[int, ...]

_MAX_DEPTH: Final = 4
_MAX_CONTAINERS: Final = 200
# Pairs of prefixes that are tried: a network has some dozens of layers of one shape.
_MAX_PREFIXES: Final = 500
# Of these, the ones with the most keys that are compared in full.
_MAX_MATCHES: Final = 20
# Parts of keys that DataParallel, torch.compile, FSDP and activation checkpointing insert at any depth.
_WRAPPERS: Final = frozenset(("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
# Inference does not use them, and old files lack them.
_COUNTERS: Final = ("num_batches_tracked", "n_averaged")
# Modules that training adds beside the network: losses, metrics and the queue of a momentum encoder.
_TRAINING: Final = re.compile(
    r"(?:.*[._])?(?:criterion|loss|loss_?fn|losses|metrics?|acc|accuracy|auroc|f1|confmat|queue|queue_ptr)(?:[._].*)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Fitted:
    """A state_dict with a module's own keys.

    Attributes:
        state_dict: Every key of the module, but for counters that the checkpoint lacks.
        notes: Lines for the user: the container, the prefixes, and what was left out.
    """

    state_dict: dict[str, Tensor]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Match:
    """An attempt: the module's keys with the checkpoint's keys that stand for them."""

    container: str
    own_prefix: str
    file_prefix: str
    pairs: Mapping[str, str] = field(default_factory=dict)
    missing: Sequence[str] = ()
    unexpected: Sequence[str] = ()
    wrong: Mapping[str, tuple[Shape, Shape]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return not self.missing and not self.unexpected and not self.wrong


def fit(content: object, shapes: Mapping[str, Shape], title: str) -> Fitted:
    """Fit the content of a checkpoint file to a module.

    Args:
        content: The result of read_tree: containers, tensors and Stubs.
        shapes: The shape of each entry of the module's state_dict.
        title: The module's name, for messages.

    Raises:
        CheckpointMismatch: No container of the file fits; lists the missing and unexpected keys and wrong shapes of the
            one that fits best.
        BadInput: The file has no tensors.
    """
    containers = dict(tensor_dicts(content))
    if not containers:
        raise BadInput("holds no tensors by name")
    if len(containers) > _MAX_CONTAINERS:
        raise BadInput(f"holds {len(containers)} groups of tensors; at most {_MAX_CONTAINERS} are read")
    matches = [_best(name, tensors, shapes) for name, tensors in containers.items()]
    best = max(matches, key=_quality)
    if not best.complete:
        where = f" (its entry {best.container!r})" if best.container else ""
        raise CheckpointMismatch(
            f"the checkpoint{where} does not fit {title}", list(best.missing), list(best.unexpected), dict(best.wrong)
        )
    tensors = containers[best.container]
    others = [repr(match.container) for match in matches if match.complete and match is not best]
    left = sorted(tensors.keys() - set(best.pairs.values()) - {key for key in tensors if _is_counter(key)})
    notes = []
    if best.container and (others or best.container != "state_dict"):
        also = f"; {', '.join(others)} would fit too (--weights NAME)" if others else ""
        notes.append(f"the weights are those of {best.container!r}{also}")
    if best.file_prefix != best.own_prefix:
        notes.append(f"the checkpoint's keys begin with {best.file_prefix!r}, the module's with {best.own_prefix!r}")
    averages = dict.fromkeys(part for key in left if (part := averaged_part(key)) is not None)
    if averages:
        notes.append(f"left out, as averages of the weights: {', '.join(averages)}; --weights NAME takes one")
    if left := [key for key in left if averaged_part(key) is None]:
        notes.append(f"left out, as they are no weights of the network: {', '.join(left[:8])}")
    return Fitted({own: tensors[key] for own, key in best.pairs.items()}, tuple(notes))


def tensor_dicts(
    content: object, path: str = "", depth: int = 0, seen: set[int] | None = None
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the tensors by name of each container of a checkpoint, and of whole pickled modules, with its path.

    `seen` are the objects that were read: a small file may hold one any number of times.
    """
    seen = set() if seen is None else seen
    if id(content) in seen:
        return
    seen.add(id(content))
    if isinstance(content, Stub):
        if "_modules" in content.attributes:
            yield path, state_dict_of(content)
        return
    if not isinstance(content, Mapping) or depth > _MAX_DEPTH:
        return
    named = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if named:
        yield path, named
    for key, value in content.items():
        if isinstance(key, str) and not key.startswith("optim"):
            yield from tensor_dicts(value, f"{path}.{key}" if path else key, depth + 1, seen)


def _is_counter(key: str) -> bool:
    return key.rpartition(".")[2] in _COUNTERS


def _plain(keys: Collection[str]) -> dict[str, str]:
    """Return the keys by their form without the parts that wrappers insert, if they stay distinct."""
    plain = {".".join(part for part in key.split(".") if part not in _WRAPPERS): key for key in keys}
    return plain if len(plain) == len(keys) else {key: key for key in keys}


def _best(container: str, tensors: Mapping[str, Tensor], shapes: Mapping[str, Shape]) -> _Match:
    """Return the match of one container with the prefixes under which most keys and shapes agree."""
    own, theirs = _plain(shapes), _plain(tensors)

    def agreeing(prefixes: tuple[str, str]) -> tuple[int, int]:
        mine, file = prefixes
        named = (
            (key, theirs.get(file + plain.removeprefix(mine))) for plain, key in own.items() if plain.startswith(mine)
        )
        same = [tuple(tensors[other].shape) == tuple(shapes[key]) for key, other in named if other is not None]
        return sum(same), sum(same) - len(same)

    candidates = sorted(_prefixes(own, theirs, shapes, tensors), key=agreeing, reverse=True)[:_MAX_MATCHES]
    return max((_match(container, pair, own, theirs, shapes, tensors) for pair in sorted(candidates)), key=_quality)


def _quality(match: _Match) -> tuple[bool, int, int, int, bool]:
    """Order matches by how well they fit; of two that fit as well, an average of the weights is the worse."""
    averaged = is_averaged(match.container) or is_averaged(match.file_prefix)
    return match.complete, len(match.pairs), -len(match.wrong), -len(match.unexpected), not averaged


def _prefixes(
    own: Mapping[str, str], theirs: Mapping[str, str], shapes: Mapping[str, Shape], tensors: Mapping[str, Tensor]
) -> list[tuple[str, str]]:
    """Return pairs of prefixes, the module's and the file's, that make some key of a shape the same.

    The module's first and last weights and the one in the middle are tried; pairs of several of them come first.
    """
    weights = [key for key in own if not _is_counter(key)] or list(own)
    found = Counter([("", "")])
    for anchor in {weights[0], weights[len(weights) // 2], weights[-1]} if weights else ():
        parts = anchor.split(".")
        for key in theirs:
            other = key.split(".")
            common = 0
            while common < min(len(parts), len(other)) and parts[-1 - common] == other[-1 - common]:
                common += 1
            if common and shapes[own[anchor]] == tuple(tensors[theirs[key]].shape):
                found[_joined(parts[: len(parts) - common]), _joined(other[: len(other) - common])] += 1
    return list(dict.fromkeys([("", ""), *(pair for pair, _ in found.most_common(_MAX_PREFIXES))]))


def _joined(parts: Sequence[str]) -> str:
    return "".join(f"{part}." for part in parts)


def _match(
    container: str,
    prefixes: tuple[str, str],
    own: Mapping[str, str],
    theirs: Mapping[str, str],
    shapes: Mapping[str, Shape],
    tensors: Mapping[str, Tensor],
) -> _Match:
    mine, file = prefixes
    pairs, missing, wrong = {}, [], {}
    for plain, key in own.items():
        other = theirs.get(file + plain.removeprefix(mine)) if plain.startswith(mine) else None
        if other is None:
            if not _is_counter(key):
                missing.append(key)
        elif tuple(tensors[other].shape) != tuple(shapes[key]):
            wrong[key] = (tuple(shapes[key]), tuple(tensors[other].shape))
        else:
            pairs[key] = other
    used = {*pairs.values(), *(theirs[file + plain.removeprefix(mine)] for plain, key in own.items() if key in wrong)}
    others = (key for key in tensors if key not in used and not _is_counter(key))
    # The average of the weights that training keeps beside them.
    unexpected = [key for key in others if not _TRAINING.fullmatch(key) and averaged_part(key) is None]
    return _Match(container, mine, file, pairs, missing, unexpected, wrong)
