"""Opens a TARGET: makes the module by running the user's code, and loads the checkpoint without running any."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from resonnx_export.assumptions.assumption import Assumption
from resonnx_export.checkpoints.files import SourceFile, identify, load_checkpoint, read_tree
from resonnx_export.checkpoints.fitting import fit
from resonnx_export.errors import BadInput
from resonnx_export.networks.detect import CheckpointMismatch
from resonnx_export.sources.folders import read_weights
from resonnx_export.sources.recorded import Recorded
from resonnx_export.sources.source import WEIGHTS
from resonnx_export.sources.training import recorded_in
from resonnx_export.user_code.libraries import LIBRARIES, Made, Request
from resonnx_export.user_code.network import prepared
from resonnx_export.user_code.objects import load_object, make_module
from resonnx_export.user_code.programs import load_exported, program_kind
from resonnx_export.user_code.running import running

_LIBRARY: Final = re.compile(rf"({'|'.join(LIBRARIES)}):(.+)")


@dataclass(frozen=True)
class Code:
    """What the user names.

    Attributes:
        target: TARGET of the command line.
        arguments: Keyword arguments of the constructor.
        checkpoint: The file or folder to load; None if the code has the weights.
        weights: Which of a file's networks to load, as --weights; None for the one that fits best.
    """

    target: str
    arguments: Mapping[str, Any]
    checkpoint: Path | None = None
    weights: str | None = None


@dataclass(frozen=True)
class Opened:
    """A module with its weights, prepared for export.

    Attributes:
        layout: "timm" and the like, "torchscript", "pt2", or "module" for the user's own classes.
        architecture: The library's name of the model, or the class's.
        dtypes: Of its parameters before they became float32.
        files: The files that weights were read from.
        recorded: Labels and preprocessing of the library's configuration.
        size: Height and width, of a program that takes one size only.
        notes: Lines for the user.
        assumptions: The weights that were chosen of a file, if the user chose.
    """

    module: nn.Module
    layout: str
    architecture: str
    dtypes: tuple[str, ...]
    files: tuple[SourceFile, ...] = ()
    recorded: Recorded = field(default_factory=Recorded)
    size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    assumptions: tuple[Assumption, ...] = ()


def open_code(code: Code, classes: int | None) -> Opened:
    """Run the user's code and load the checkpoint. `classes` is the number of labels, if they are given.

    Raises:
        BadInput: The target does not exist, its code raises, a library is not installed, or the checkpoint does not
            fit; the message is one line.
    """
    path = Path(code.target)
    if code.weights is not None and (code.checkpoint is None or code.checkpoint.is_dir()):
        raise BadInput("--weights names one of a file's networks: give the file with --checkpoint")
    if path.is_file() and (kind := program_kind(path)):
        return _program(code, path, kind)
    if path.is_file():
        raise BadInput(
            f"{path} is no TorchScript nor torch.export program; for Python code add the attribute, {path}:Class, and "
            "give a checkpoint with --checkpoint"
        )
    match = _LIBRARY.fullmatch(code.target)
    if match is None:
        made = Made(make_module(load_object(code.target), code.arguments, code.target))
        return _loaded(code, made, "module", type(made.module).__name__)
    library, name = match.groups()
    made = LIBRARIES[library](Request(name, code.arguments, classes, code.checkpoint))
    own_name = type(made.module).__name__ if library in ("transformers", "lightning") else name
    architecture = made.recorded.architecture or own_name
    return _loaded(code, made, library, architecture)


def _program(code: Code, path: Path, kind: str) -> Opened:
    if code.checkpoint is not None or code.arguments:
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


def _loaded(code: Code, made: Made, layout: str, architecture: str) -> Opened:
    module, notes, files = made.module, made.notes, tuple[SourceFile, ...]()
    dtypes, recorded = _dtypes(module), made.recorded
    weights = code.checkpoint or made.folder
    if weights is not None:
        content, files, read = _read(weights, code.weights)
        notes += read + load_into(module, content, f"{architecture} (of {code.target})", str(weights))
        stored = recorded_in(content if code.weights is None else read_tree(weights)[0])
        if recorded.labels is None:
            recorded = replace(recorded, labels=stored.labels, labels_from=stored.labels_from)
        if stored.pictures is not None:
            recorded = replace(recorded, pictures=stored.pictures)
    else:
        notes += (f"the weights are those that {code.target} made; --checkpoint loads others",)
    chosen = (Assumption(WEIGHTS, code.weights, "--weights", confirmed=True),) if code.weights else ()
    return Opened(prepared(module), layout, architecture, dtypes, files, recorded, notes=notes, assumptions=chosen)


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


def _read(path: Path, weights: str | None) -> tuple[object, tuple[SourceFile, ...], tuple[str, ...]]:
    """Return the content of a checkpoint file or what `weights` names of it, or of a folder's weights; files; notes."""
    if path.is_dir():
        return read_weights(path)
    if weights is not None:
        checkpoint = load_checkpoint(path, weights)
        start = "" if checkpoint.prefix is None else f"{checkpoint.prefix}."
        tensors = {key: value for key, value in checkpoint.state_dict.items() if key.startswith(start)}
        return tensors, (checkpoint.file,), checkpoint.notes
    content, file = read_tree(path)
    return content, (file,), ()


def _dtypes(module: nn.Module) -> tuple[str, ...]:
    return tuple(sorted({str(value.dtype).removeprefix("torch.") for value in module.parameters()}))
