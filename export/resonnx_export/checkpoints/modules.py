"""Finds the names of a network's modules, which state_dict() writes beside its tensors in `_metadata`.

Modules without weights have no key; in `_metadata` they have an entry.
"""

from collections.abc import Mapping
from typing import Final

from torch import Tensor

from resonnx_export.checkpoints.pickles import OrderedDict

_METADATA: Final = "_metadata"
_DEEPEST: Final = 8


def module_names(tree: object, state_dict: Mapping[str, Tensor]) -> frozenset[str]:
    """Return the names of modules beside the tensors of a state_dict, with the prefixes of the file.

    Args:
        tree: The content of the file that the state_dict was found in.
        state_dict: Tensors by name; none if the file has no names of modules.
    """
    own = {id(tensor) for tensor in state_dict.values()}
    level, seen = [tree], set[int]()
    for _ in range(_DEEPEST):
        # A small file may refer to the same mapping any number of times.
        distinct = {id(each): each for each in level if isinstance(each, Mapping) and id(each) not in seen}
        seen |= distinct.keys()
        mappings = list(distinct.values())
        for each in mappings:
            if isinstance(each, OrderedDict) and any(id(value) in own for value in each.values()):
                modules = each.attributes.get(_METADATA)
                return frozenset(filter(_is_name, modules)) if isinstance(modules, Mapping) else frozenset()
        level = [value for each in mappings for value in each.values()]
    return frozenset()


def _is_name(key: object) -> bool:
    return isinstance(key, str)
