"""Finds the state_dicts in a checkpoint file's tree of containers, and chooses among several."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from resonnx_export.checkpoints.pickles import Stub
from resonnx_export.checkpoints.unpickle import state_dict_of
from resonnx_export.errors import BadInput

# Entries under which training scripts store the weights; the earlier is taken if a file has several. Between a student
# and a teacher the user chooses.
_PREFERRED: Final = ("state_dict", "model", "model_state_dict", "net", "network", "model_state")
# Names of averaged copies, which are not taken unless they are chosen or alone.
_AVERAGED: Final = re.compile(r"(?:^|[._])(?:ema|averaged?|swa|shadow|momentum)(?:[._]|$)", re.IGNORECASE)
_MAX_VISITED: Final = 200_000
_MAX_PATH: Final = 1000
# A network has this many convolutions at least; metrics and losses with tensors have none.
_CONVOLUTIONS: Final = 2
_LISTED: Final = 8


@dataclass(frozen=True)
class Weights:
    """One state_dict in a file.

    Attributes:
        name: Its path in the file: "model", "checkpoint.state_dict"; "" for the whole file.
        tensors: By key, on the CPU.
        left_out: Entries between the tensors that are none, such as an epoch.
        module: The pickled module, where one was saved whole.
    """

    name: str
    tensors: Mapping[str, Tensor]
    left_out: tuple[str, ...] = ()
    module: Stub | None = None

    @property
    def is_network(self) -> bool:
        """Whether there are convolutions."""
        return sum(value.ndim >= 4 for value in self.tensors.values()) >= _CONVOLUTIONS

    @property
    def is_averaged(self) -> bool:
        """Whether the name is that of an exponential or other average of weights."""
        return is_averaged(self.name)


def is_averaged(name: str) -> bool:
    """Tell from a name, such as "model_ema", whether it is an average of weights over the training."""
    return _AVERAGED.search(name) is not None


def averaged_part(name: str) -> str | None:
    """Return the start of a name up to the part that tells an average, such as "ema_model"; None if none does."""
    parts = name.split(".")
    return next((".".join(parts[: n + 1]) for n, part in enumerate(parts) if _AVERAGED.search(part)), None)


def weights_in(tree: object) -> tuple[list[Weights], str]:
    """Return the networks' state_dicts and pickled modules at any depth, and the key of a recurrent layer, or "".

    Optimisers' are left out. If no state_dict has convolutions, the largest with nothing but tensors is returned.

    Raises:
        BadInput: The tree has more parts than any checkpoint, or tensors of a kind that is not read.
    """
    found = list(_walk(tree))
    recurrent = next((key for each in found for key in each.tensors if "weight_ih" in key), "")
    networks = [each for each in found if each.is_network]
    if networks:
        return networks, recurrent
    plain = [each for each in found if each.module is not None or not each.left_out]
    return sorted(plain, key=lambda each: -len(each.tensors))[:1], recurrent


def narrowed(found: Sequence[Weights], name: str | None) -> tuple[list[Weights], str | None]:
    """Return the state_dicts that `name` (--weights) chooses, and the part of the name that is a prefix of their keys.

    Without a name: the preferred one, or all if none is. Raises BadInput if the name is of none.
    """
    if name is None:
        return _preferred(found), None
    for matches in (
        [each for each in found if each.name == name],
        [each for each in found if each.name.rpartition(".")[2] == name],
    ):
        if matches:
            return matches, None
    for each in found:
        prefix = name.removeprefix(f"{each.name}.") if each.name else name
        # Wrappers such as "module." may be before it.
        starts = ((key, f".{key}".find(f".{prefix}.")) for key in each.tensors)
        if found_in := next(((key, start) for key, start in starts if start >= 0), None):
            key, start = found_in
            return [each], key[: start + len(prefix)]
    listed = ", ".join(repr(each.name) for each in found[:_LISTED] if each.name)
    raise BadInput(f"has no weights named {name!r} (--weights); it has {listed or 'one state_dict, without a name'}")


def _preferred(found: Sequence[Weights]) -> list[Weights]:
    if len(found) < 2:
        return list(found)
    plain = [each for each in found if not each.is_averaged] or list(found)
    ranks = [_rank(each.name) for each in plain]
    if ranks.count(min(ranks)) == 1 and min(ranks) < len(_PREFERRED):
        return [plain[ranks.index(min(ranks))]]
    first = plain[0]
    if all(_same(first, each) for each in plain):
        return [first]
    return plain


def _rank(name: str) -> int:
    first = name.partition(".")[0]
    return _PREFERRED.index(first) if first in _PREFERRED else len(_PREFERRED)


def _same(first: Weights, other: Weights) -> bool:
    """Tell whether both are the same tensors in the file."""
    return first.tensors.keys() == other.tensors.keys() and all(
        value.data_ptr() == other.tensors[key].data_ptr() for key, value in first.tensors.items()
    )


def _walk(tree: object) -> Iterator[Weights]:
    waiting: list[tuple[str, object]] = [("", tree)]
    visited: set[int] = set()
    while waiting:
        path, node = waiting.pop()
        if id(node) in visited or len(path) > _MAX_PATH:
            continue
        visited.add(id(node))
        if len(visited) + len(waiting) > _MAX_VISITED:
            raise BadInput("has more parts than any checkpoint")
        if isinstance(node, Stub) and "_modules" in node.attributes:
            yield Weights(path, state_dict_of(node), module=node)
            continue
        entries = _entries(node)
        if "param_groups" in entries:
            continue
        tensors = {key: value for key, value in entries.items() if isinstance(key, str) and isinstance(value, Tensor)}
        if tensors:
            yield Weights(path, tensors, tuple(_beside_tensors(entries)))
        waiting += [
            (f"{path}.{key}" if path else str(key), value)
            for key, value in reversed(list(entries.items()))
            if isinstance(value, Mapping | Stub | list | tuple) and not _is_optimiser(key)
        ]


def _beside_tensors(entries: Mapping[Any, Any]) -> Iterator[str]:
    modules = {str(key).rpartition(".")[0] for key, value in entries.items() if isinstance(value, Tensor)} - {""}
    for key, value in entries.items():
        if isinstance(value, Stub) and "_rebuild_" in value.path:
            kind = "quantised" if "qtensor" in value.path else "not plain"
            raise BadInput(
                f"holds no state_dict of plain tensors: {key!r} is {kind} ({value.path}); save the weights as float32"
            )
        if not isinstance(value, Tensor):
            name = str(key)
            if name.rpartition(".")[0] in modules and not name.endswith("_extra_state"):
                raise BadInput(f"holds no state_dict of tensors: {name!r} is a {_kind(value)}, no tensor")
            yield name


def _entries(node: object) -> Mapping[Any, Any]:
    if isinstance(node, Stub):
        return {**node.attributes, **(node.items or {}), **dict(enumerate(node.elements or ()))}
    if isinstance(node, list | tuple):
        return dict(enumerate(node))
    return node if isinstance(node, Mapping) else {}


def _is_optimiser(key: object) -> bool:
    return isinstance(key, str) and "optim" in key.lower()


def content(tree: object) -> str:
    """Describe a tree without a network: "an optimiser's state", or its entries."""
    if isinstance(tree, Stub):
        return f"a pickled {tree.path}, which is no module of PyTorch's; save its state_dict() instead"
    if not isinstance(tree, Mapping):
        return f"no state_dict (names to tensors), but a {type(tree).__name__}"
    if "param_groups" in tree or any(
        _is_optimiser(key) or (isinstance(value, Mapping) and "param_groups" in value) for key, value in tree.items()
    ):
        return "an optimiser's state only, no network: export the file with the model's state_dict()"
    listed = ", ".join(f"{key} ({_kind(value)})" for key, value in list(tree.items())[:_LISTED])
    return f"no state_dict (names to tensors), but {listed or 'nothing'}"


def _kind(value: object) -> str:
    return value.path if isinstance(value, Stub) else type(value).__name__
