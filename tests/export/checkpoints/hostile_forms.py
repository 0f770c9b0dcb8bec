"""Files of users' classifiers, damaged in their names, shapes and containers."""

import io
import random
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from . import hostile

State = dict[str, Tensor]
Tree = dict[str, object]


def _children(state: State) -> State:
    places = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "fc": "9"}
    return {f"{places[key.partition('.')[0]]}.{key.partition('.')[2]}": value for key, value in state.items()}


def _prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


FORMS: dict[str, Callable[[State], Tree]] = {
    "an attribute": lambda s: dict(_prefixed(s, "resnet.")),
    "siblings": lambda s: {
        key.replace("fc.", "classifier.") if "fc." in key else f"backbone.{key}": s[key] for key in s
    },
    "children": lambda s: dict(_prefixed(_children(s), "features.")),
    "lightning": lambda s: {"state_dict": _prefixed(s, "net.") | {"criterion.weight": torch.ones(7)}, "epoch": 3},
    "an average": lambda s: {"model": dict(s), "model_ema": dict(s), "optimizer": {"state": {}, "param_groups": []}},
    "student and teacher": lambda s: {"student": dict(s), "teacher": dict(s)},
    "two levels": lambda s: {"checkpoint": {"model": dict(s), "args": {"lr": 1}}},
    "fastai": lambda s: {"model": _prefixed(_children(s), "0."), "opt": {"hypers": [{"lr": 1}]}},
}


def damaged(state: State, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield a description and a file, `count` times; the same each time."""
    chance = random.Random(0)
    for number in range(count):
        form = chance.choice(list(FORMS))
        tree = FORMS[form](state)
        holder = _holder(tree, chance)
        damages = chance.choices(_DAMAGES, k=chance.randint(1, 3))
        for damage in damages:
            damage(holder, tree, chance)
        buffer = io.BytesIO()
        torch.save(tree, buffer)
        yield f"{number}: {form}, {[damage.__name__ for damage in damages]}", buffer.getvalue()


def _holder(tree: Tree, chance: random.Random) -> Tree:
    """Return one of the dicts with tensors."""
    waiting, found = [tree], []
    while waiting:
        node = waiting.pop()
        if any(isinstance(value, Tensor) for value in node.values()):
            found.append(node)
        waiting += [value for value in node.values() if isinstance(value, dict)]
    return chance.choice(found)


def _key(holder: Tree, chance: random.Random) -> str:
    return chance.choice(list(holder) or ["none"])


def _remove(holder: Tree, tree: Tree, chance: random.Random) -> None:
    holder.pop(_key(holder, chance), None)


def _rename(holder: Tree, tree: Tree, chance: random.Random) -> None:
    key = _key(holder, chance)
    other = chance.choice(
        ("layer1.0.conv1.weight", "fc.weight", "a", "", ".", "..", "layer9999.9999.conv1.weight", key[::-1])
    )
    holder[other] = holder.pop(key, torch.ones(1))


def _reshape(holder: Tree, tree: Tree, chance: random.Random) -> None:
    shape = chance.choice(((), (0,), (1,), (7,), (0, 8), (7, 32, 1, 1), (3, 3, 3, 3, 3), (1 << 16, 1), (8, 0, 3, 3)))
    holder[_key(holder, chance)] = torch.ones(shape)


def _replace(holder: Tree, tree: Tree, chance: random.Random) -> None:
    other: object = chance.choice(
        (None, 1, "x", [1], {"a": 1}, torch.ones(2).to_sparse(), torch.ones(2, dtype=torch.int64))
    )
    holder[_key(holder, chance)] = other


def _many_names(holder: Tree, tree: Tree, chance: random.Random) -> None:
    value = torch.ones(1, 1, 3, 3)
    holder.update({f"a{number}.{number}.0.conv1.weight": value for number in range(chance.choice((2, 20, 400)))})


def _heads(holder: Tree, tree: Tree, chance: random.Random) -> None:
    holder.update({f"head{number}.weight": torch.ones(32, 32) for number in range(chance.choice((2, 15, 40)))})


def _long_name(holder: Tree, tree: Tree, chance: random.Random) -> None:
    holder[chance.choice(("x" * 100_000, "a." * 50_000 + "layer1.0.conv1.weight", "." * 5000))] = torch.ones(1)


def _deep(holder: Tree, tree: Tree, chance: random.Random) -> None:
    node: object = dict(holder)
    for _ in range(chance.choice((2, 50))):
        node = chance.choice(({"a": node}, [node], (node, node)))
    tree["deep"] = node


def _cycle(holder: Tree, tree: Tree, chance: random.Random) -> None:
    holder["self"] = tree
    tree["list"] = [tree, holder]


_DAMAGES = (_remove, _rename, _reshape, _replace, _many_names, _heads, _long_name, _deep, _cycle)


def nested(depth: int) -> bytes:
    """A file of dicts in dicts."""
    return hostile.archive(b"\x80\x02" + b"}U\x01a" * depth + b"}" + b"s" * depth + b".")
