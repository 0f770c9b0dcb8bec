"""Names in JSON and pickled containers: lists, objects in both directions, and libraries' configuration files."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from resonnx_export.class_names.names import FORMS, ClassNames, by_number, in_order
from resonnx_export.errors import BadInput

_NUMBERS: Final = ("id", "index", "idx", "class_id", "label_id", "class_index", "number")
_NAMES: Final = ("name", "label", "class_name", "class", "category", "label_name", "display_name")
# Keys under which files hold the names, in order of preference.
_HOLDERS: Final = (
    *("class_to_idx", "idx_to_class", "idx2label", "index_to_class", "classes", "CLASSES", "class_names", "labels"),
    *("names", "categories"),
)
_MAX_NESTING: Final = 3


def parse_json(text: str) -> Any:
    """Parse JSON. Raises ValueError if it is none, and BadInput if an object has a key twice or nests too deeply."""
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except RecursionError:
        raise BadInput("is JSON nested more deeply than any list of names") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise BadInput(f"is a JSON object with the key {key[:40]!r} twice")
        found[key] = value
    return found


def names_of(content: Any, kind: str = "JSON", depth: int = 0) -> ClassNames:
    """Return the names that a list or an object holds.

    Args:
        content: Plain containers.
        kind: What the file is, for messages.
        depth: How many objects it is inside of.

    Raises:
        BadInput: It has no known form, or leaves a class without a name.
    """
    if isinstance(content, list | tuple):
        return _of_list(content, kind)
    if isinstance(content, Mapping):
        return _of_object(content, kind, depth)
    raise BadInput(f"is {kind} and holds neither a list nor an object; give {FORMS}")


def _of_list(content: list[Any] | tuple[Any, ...], kind: str) -> ClassNames:
    if not content or not all(isinstance(entry, Mapping) for entry in content):
        return in_order(content, f"a {kind} list")
    keys = content[0].keys()
    number = next((key for key in _NUMBERS if key in keys), None)
    name = next((key for key in _NAMES if key in keys), None)
    if name is None or any(name not in entry or (number and number not in entry) for entry in content):
        raise BadInput(f"is a {kind} list of objects; they need the keys 'id' and 'name'")
    if number is None:
        return in_order((entry[name] for entry in content), f"a {kind} list of objects with {name!r}")
    if not all(_is_number(entry[number]) for entry in content):
        raise BadInput(f"is a {kind} list of objects whose {number!r} is not always a number")
    form = f"a {kind} list of objects with {number!r} and {name!r}"
    return by_number([(entry[number], entry[name]) for entry in content], form)


def _of_object(content: Mapping[Any, Any], kind: str, depth: int) -> ClassNames:
    for holder, read in _LIBRARIES.items():
        if holder in content and (found := read(content[holder], content, kind)) is not None:
            return found
    if content and all(_index(key) is not None for key in content):
        return _numbered(content, kind)
    if content and all(_is_number(value) for value in content.values()):
        return by_number([(number, name) for name, number in content.items()], f'a {kind} object {{"name": number}}')
    for holder in _HOLDERS:
        if isinstance(content.get(holder), list | tuple | Mapping) and depth < _MAX_NESTING:
            return names_of(content[holder], f"{kind} {holder!r}", depth + 1)
    listed = ", ".join(repr(str(key)[:20]) for key in list(content)[:4]) or "nothing"
    raise BadInput(f"is a {kind} object of an unknown form, with {listed}; give {FORMS}")


def _numbered(content: Mapping[Any, Any], kind: str) -> ClassNames:
    pairs = [(_index(key) or 0, value) for key, value in content.items()]
    if all(isinstance(value, list | tuple) and len(value) == 2 for _, value in pairs):
        # Keras' imagenet_class_index.json.
        return by_number(
            [(number, value[1]) for number, value in pairs], f'a {kind} object {{"number": ["id", "name"]}}'
        )
    if all(_is_number(value) for _, value in pairs):
        # Classes named by digits, as those of MNIST in folders.
        return by_number([(value, str(key)) for key, value in content.items()], f'a {kind} object {{"name": number}}')
    return by_number(pairs, f'a {kind} object {{"number": "name"}}')


def _hugging_face(names: Any, content: Mapping[Any, Any], kind: str) -> ClassNames | None:
    if not isinstance(names, Mapping) or not names or any(_index(key) is None for key in names):
        return None
    return by_number([(_index(key) or 0, value) for key, value in names.items()], f"{kind} with id2label")


def _timm(names: Any, content: Mapping[Any, Any], kind: str) -> ClassNames | None:
    if not isinstance(names, list | tuple):
        return None
    described = content.get("label_descriptions")
    if isinstance(described, Mapping) and all(isinstance(described.get(name), str) for name in names):
        # ImageNet's names are WordNet's ids.
        return in_order((described[name] for name in names), f"{kind} with label_descriptions")
    return in_order(names, f"{kind} with label_names")


_LIBRARIES: Final[Mapping[str, Callable[[Any, Mapping[Any, Any], str], ClassNames | None]]] = {
    "id2label": _hugging_face,
    "label_names": _timm,
}


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _index(key: object) -> int | None:
    """Return a class number that is written in digits, or a number itself; otherwise None."""
    if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10:
        return int(key)
    return key if isinstance(key, int) and not isinstance(key, bool) else None
