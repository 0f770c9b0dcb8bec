"""Opens a TARGET: makes the module by running the user's code, and loads the checkpoint without running any."""

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from resonnx_export.checkpoints.files import SourceFile, identify, read_tree
from resonnx_export.checkpoints.fitting import fit
from resonnx_export.errors import BadInput
from resonnx_export.networks.detect import CheckpointMismatch
from resonnx_export.pictures.configured import (
    ConfiguredRecipe,
    hugging_face_labels,
    hugging_face_recipe,
    timm_recipe,
)
from resonnx_export.user_code.libraries import LIBRARIES, Made, Request
from resonnx_export.user_code.network import prepared
from resonnx_export.user_code.objects import load_object, make_module
from resonnx_export.user_code.programs import load_exported, program_kind
from resonnx_export.user_code.running import running

_LIBRARY: Final = re.compile(rf"({'|'.join(LIBRARIES)}):(.+)")
_INDEX: Final = "*.index.json"
# In transformers' order of preference.
_WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Source:
    """What the user names.

    Attributes:
        target: TARGET of the command line.
        arguments: Keyword arguments of the constructor.
        checkpoint: The file to load; None if the code has the weights.
    """

    target: str
    arguments: Mapping[str, Any]
    checkpoint: Path | None = None


@dataclass(frozen=True)
class Opened:
    """A module with its weights, prepared for export.

    Attributes:
        layout: "timm" and the like, "torchscript", "pt2", or "module" for the user's own classes.
        architecture: The library's name of the model, or the class's.
        dtypes: Of its parameters before they became float32.
        files: The files that weights were read from.
        labels: Of the library's configuration; may be empty.
        recipe: Likewise, or of a program that takes one size only.
        notes: Lines for the user.
    """

    module: nn.Module
    layout: str
    architecture: str
    dtypes: tuple[str, ...]
    files: tuple[SourceFile, ...] = ()
    labels: tuple[str, ...] = ()
    recipe: ConfiguredRecipe | None = None
    size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()


def open_source(source: Source, classes: int | None) -> Opened:
    """Run the user's code and load the checkpoint. `classes` is the number of labels, if they are given.

    Raises:
        BadInput: The target does not exist, its code raises, a library is not installed, or the checkpoint does not
            fit; the message is one line.
    """
    path = Path(source.target)
    if path.is_file() and (kind := program_kind(path)):
        return _program(source, path, kind)
    if path.is_file():
        raise BadInput(
            f"{path} is no TorchScript nor torch.export program; for Python code add the attribute, {path}:Class, and "
            "give a checkpoint with --checkpoint"
        )
    match = _LIBRARY.fullmatch(source.target)
    if match is None:
        made = Made(make_module(load_object(source.target), source.arguments, source.target))
        return _loaded(source, made, "module", type(made.module).__name__)
    library, name = match.groups()
    made = LIBRARIES[library](Request(name, source.arguments, classes, source.checkpoint))
    own_name = type(made.module).__name__ if library in ("transformers", "lightning") else name
    architecture = str((made.config or {}).get("architecture") or own_name)
    return _loaded(source, made, library, architecture)


def _program(source: Source, path: Path, kind: str) -> Opened:
    if source.checkpoint is not None or source.arguments:
        raise BadInput(f"{path} is a program with its weights: leave --checkpoint and --set out")
    size = None
    if kind == "pt2":
        module, sizes = load_exported(path)
        size = (sizes[1], sizes[2]) if sizes else None
    else:
        with running(f"loading {path}"), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    file = identify(path)
    return Opened(prepared(module), kind, path.stem, _dtypes(module), (file,), size=size)


def _loaded(source: Source, made: Made, layout: str, architecture: str) -> Opened:
    module = made.module
    weights = [source.checkpoint] if source.checkpoint else _weights_of(made.folder)
    dtypes = _dtypes(module)
    notes, files = list(made.notes), list[SourceFile]()
    if weights:
        content, files = _read(weights)
        notes += load_into(module, content, f"{architecture}, made by {source.target},", str(weights[0]))
    else:
        notes.append(f"the weights are those that {source.target} made; --checkpoint loads others")
    published = bool(source.arguments.get("pretrained"))
    recipe, labels = _configured(made, layout, architecture, published)
    return Opened(prepared(module), layout, architecture, dtypes, tuple(files), labels, recipe, notes=tuple(notes))


def load_into(module: nn.Module, content: object, title: str, file: str) -> tuple[str, ...]:
    """Load a checkpoint's content into a module, and return notes about containers and what was left out.

    Raises:
        BadInput: It does not fit; lists missing and unexpected keys and wrong shapes.
    """
    own = module.state_dict()
    shapes = {key: tuple(value.shape) for key, value in own.items() if isinstance(value, torch.Tensor)}
    try:
        fitted = fit(content, shapes, title)
    except CheckpointMismatch as error:
        raise BadInput(f"{file}: {error}") from None
    except BadInput as error:
        raise BadInput(f"{file} {error}") from None
    with running("load_state_dict"):
        module.load_state_dict(fitted.state_dict, strict=False)
    return fitted.notes


def _read(paths: list[Path]) -> tuple[object, list[SourceFile]]:
    """Read one file, or the parts of a sharded state_dict."""
    trees = [read_tree(path) for path in paths]
    if len(trees) == 1:
        return trees[0][0], [trees[0][1]]
    merged: dict[str, object] = {}
    for tree, _ in trees:
        merged.update(tree if isinstance(tree, Mapping) else {})
    return merged, [file for _, file in trees]


def _weights_of(folder: Path | None) -> list[Path]:
    """Return the files of a folder of save_pretrained that hold weights. Raises BadInput if there are none."""
    if folder is None:
        return []
    if found := next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None):
        return [found]
    for index in sorted(folder.glob(_INDEX), reverse=True):
        names = set(_json(index).get("weight_map", {}).values())
        if names and all(isinstance(name, str) and Path(name).name == name for name in names):
            return [folder / name for name in sorted(names)]
    raise BadInput(f"{folder} holds no weights: {' or '.join(_WEIGHTS)}, whole or in parts")


def _configured(
    made: Made, layout: str, architecture: str, published: bool
) -> tuple[ConfiguredRecipe | None, tuple[str, ...]]:
    """Return the recipe and the labels of a library's configuration."""
    config = made.config or {}
    if layout == "timm":
        tag = ".".join(filter(None, (architecture.partition(".")[0], config.get("tag"))))
        settled = published or made.folder is not None
        source, found = f"timm's pretrained_cfg of {tag}", timm_recipe(config)
        names = tuple(map(str, config.get("label_names") or ()))
    elif made.folder is not None:
        processor, settled = made.folder / "preprocessor_config.json", True
        source, found = processor.name, hugging_face_recipe(_json(processor)) if processor.is_file() else None
        names = hugging_face_labels(config)
    else:
        return None, ()
    return ConfiguredRecipe(found, source, settled) if found else None, names


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is no readable JSON: {error}") from None
    return content if isinstance(content, dict) else {}


def _dtypes(module: nn.Module) -> tuple[str, ...]:
    return tuple(sorted({str(value.dtype).removeprefix("torch.") for value in module.parameters()}))
