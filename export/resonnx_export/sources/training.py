"""Finds what training code stores in a checkpoint beside the weights: names of classes, mean and deviation."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from resonnx_export.checkpoints.pickles import Stub
from resonnx_export.class_names.names import ClassNames
from resonnx_export.class_names.objects import names_of
from resonnx_export.errors import BadInput
from resonnx_export.pictures.recipes import ToldPictures
from resonnx_export.sources.normalisation import of_fastai, of_openmmlab
from resonnx_export.sources.recorded import Recorded

# Keys of lists and dicts of names, in order of preference: torchvision's ImageFolder, scripts, OpenMMLab.
_NAMES: Final = (
    *("class_to_idx", "idx_to_class", "id2label", "classes", "CLASSES", "class_names", "label_names"),
    *("idx2label", "index_to_class", "label_map", "labels", "categories"),
)
# Entries that hold settings: Lightning, scripts, OpenMMLab.
_SETTINGS: Final = (
    *("hyper_parameters", "datamodule_hyper_parameters", "hparams", "meta", "dataset_meta", "config", "cfg"),
    *("args", "opt", "params"),
)
_MAX_DEPTH: Final = 3
# fastai.data.transforms.CategoryMap and Normalize, in the loaders of learn.export.
_CATEGORIES: Final = ".CategoryMap"
_NORMALIZE: Final = "fastai.data.transforms.Normalize"
_MAX_VISITED: Final = 100_000


def recorded_in(tree: object) -> Recorded:
    """Return the labels and the normalisation that a checkpoint file holds in known forms beside the weights."""
    pictures = _pictures(tree)
    for name, content in _candidates(tree):
        try:
            found = names_of(content)
        except BadInput:
            continue
        return Recorded(ClassNames(found.names), name, pictures)
    return Recorded(pictures=pictures)


def _pictures(tree: object) -> ToldPictures | None:
    if not isinstance(tree, Stub):
        return of_openmmlab(_entries(tree).get("meta"))
    found = {told.changes: told for each in _transforms(tree, _NORMALIZE) if (told := of_fastai(each)) is not None}
    # Of several, it is not known which one the network was trained with.
    return next(iter(found.values())) if len(found) == 1 else None


def _candidates(tree: object) -> Iterator[tuple[str, object]]:
    yield from _named(tree, "", 0, set())
    if isinstance(tree, Stub):
        for category in _transforms(tree, _CATEGORIES):
            # Every name's number; fastai's own list of names is an object that is not read.
            yield "vocab of the pickled learner", category.attributes.get("o2i")


def _named(node: object, path: str, depth: int, visited: set[int]) -> Iterator[tuple[str, object]]:
    """Yield places and contents; `visited` are those already yielded: a small file may hold one any number of times."""
    entries = _entries(node)
    for key in _NAMES:
        if isinstance(content := entries.get(key), list | tuple | Mapping) and id(content) not in visited:
            visited.add(id(content))
            yield f"{path}{key}", content
    if depth < _MAX_DEPTH:
        for key in _SETTINGS:
            if (below := entries.get(key)) is not None and id(below) not in visited:
                visited.add(id(below))
                yield from _named(below, f"{path}{key}.", depth + 1, visited)


def _transforms(tree: Stub, name: str) -> Iterator[Stub]:
    """Yield the objects in the loaders of a pickled learner whose class's path ends with a name."""
    waiting: list[object] = [tree.attributes.get("dls")]
    visited: set[int] = set()
    while waiting and len(visited) < _MAX_VISITED:
        node = waiting.pop()
        if id(node) in visited:
            continue
        visited.add(id(node))
        if isinstance(node, Stub) and node.path.endswith(name):
            yield node
        elif isinstance(node, list | tuple):
            waiting += node
        else:
            waiting += [*_entries(node).values(), *(node.args if isinstance(node, Stub) else ())]


def _entries(node: object) -> Mapping[Any, Any]:
    if isinstance(node, Stub):
        return {**node.attributes, **(node.items or {}), **dict(enumerate(node.elements or ()))}
    return node if isinstance(node, Mapping) else {}
