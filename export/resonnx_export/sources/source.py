"""Reads what a classifier is given as, a checkpoint file or a library's folder."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from torch import Tensor

from resonnx_export.assumptions.assumption import Assumption
from resonnx_export.assumptions.reading import NOTHING, Assumed
from resonnx_export.checkpoints.files import Checkpoint, SourceFile, load_checkpoints
from resonnx_export.errors import BadInput
from resonnx_export.layouts.classifiers import recognise_classifier
from resonnx_export.layouts.families import OtherNetwork
from resonnx_export.layouts.recognised import RecognisedCheckpoint
from resonnx_export.sources import folders
from resonnx_export.sources.pickled import PickledModule, pickled_module
from resonnx_export.sources.pickled_network import end_of, recognise_pickled
from resonnx_export.sources.recorded import Recorded
from resonnx_export.sources.training import recorded_in

# The assumption that names the weights read, as --weights takes them.
WEIGHTS: Final = "weights"


@dataclass(frozen=True)
class Source:
    """The tensors of a classifier by key, the files that they are in, and what is recorded beside them.

    `path` is the file of the tensors, the first of several. `modules` are the names of the network's modules, where
    they are known; `module` is the pickled module that the tensors were taken from, if they were.
    """

    state_dict: dict[str, Tensor]
    files: tuple[SourceFile, ...]
    recorded: Recorded
    path: Path
    notes: tuple[str, ...] = ()
    assumptions: tuple[Assumption, ...] = ()
    modules: frozenset[str] = frozenset()
    module: PickledModule | None = None


def read_source(path: Path, weights: str | None = None) -> Source:
    """Read a checkpoint file, or a folder of Hugging Face or timm.

    Args:
        path: The file or folder.
        weights: Which of a file's networks to read, by the name of its entry or the start of its keys (--weights).

    Raises:
        BadInput: There are no weights, as load_checkpoints, or several networks and none is preferred; or a
            configuration file is damaged, or of another network.
    """
    if path.is_dir():
        if weights is not None:
            raise BadInput(f"--weights names one of a file's networks; {path} is a folder")
        recorded = folders.read_recorded(path)
        state_dict, files, notes = folders.read_weights(path)
        return Source(state_dict, files, recorded, path / files[0].name, notes + recorded.notes)
    checkpoint = _chosen(path, load_checkpoints(path, weights))
    if checkpoint.recurrent:
        raise BadInput(
            f"{path} is a captioner or a part of one (it has {checkpoint.recurrent}), not a classifier: see "
            f"resonnx-export inspect {shlex.quote(str(path))}"
        )
    notes = checkpoint.notes
    if (path.parent / folders.CONFIG).is_file():
        notes += (
            f"{folders.CONFIG} beside the file was not read: give the folder, {path.parent}, for its labels and "
            "preprocessing",
        )
    state_dict, prefix, modules = checkpoint.state_dict, checkpoint.prefix, checkpoint.modules
    if prefix is not None:
        state_dict = {key: value for key, value in state_dict.items() if key.startswith(f"{prefix}.")}
        modules = frozenset(name for name in modules if name.startswith(f"{prefix}."))
    assumptions: tuple[Assumption, ...] = ()
    if weights is not None or checkpoint.others:
        value = weights or checkpoint.name
        assumptions = (Assumption(WEIGHTS, value, "--weights VALUE", checkpoint.others, confirmed=weights is not None),)
    recorded, module = recorded_in(checkpoint.tree), None
    if checkpoint.module is not None:
        module = pickled_module(checkpoint.module, prefix)
        if (end := end_of(module)) is not None:
            recorded = replace(recorded, activation=end[1])
    return Source(state_dict, (checkpoint.file,), recorded, path, notes, assumptions, modules, module)


def _chosen(path: Path, checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """Return the only network, or the only one with classes. Raises BadInput with what each is."""
    if len(checkpoints) == 1:
        return checkpoints[0]
    found, refused = [], []
    for checkpoint in checkpoints:
        try:
            recognised = recognise_classifier(checkpoint.state_dict)
        except BadInput as error:
            refused.append(f"{checkpoint.name!r} ({error})")
            continue
        if recognised.has_classes:
            found.append(checkpoint)
        else:
            refused.append(f"{checkpoint.name!r} (a trunk, without a head for classes)")
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(repr(checkpoint.name) for checkpoint in found)
        raise BadInput(f"{path} holds several classifiers: {listed}; choose one with --weights NAME")
    raise BadInput(f"{path} holds several networks, and none is a classifier: {'; '.join(refused)}")


def recognise_source(source: Source, *, assume: Assumed = NOTHING, stride_in_1x1: bool = False) -> RecognisedCheckpoint:
    """Build and load the network with the properties that are recorded, where the user states no others.

    Otherwise as recognise_classifier, or recognise_pickled for a pickled module. The command in the message of an
    OtherNetwork names the source's file.
    """
    recorded = {name: value for name, value in source.recorded.network.items() if name not in assume}
    if stride_in_1x1:
        recorded.pop("stride-in", None)
    assume = {**recorded, **assume}
    try:
        if source.module is not None:
            recognised = recognise_pickled(source.state_dict, source.module, assume, stride_in_1x1=stride_in_1x1)
        else:
            recognised = recognise_classifier(
                source.state_dict, assume=assume, stride_in_1x1=stride_in_1x1, modules=source.modules
            )
    except OtherNetwork as error:
        raise _of_file(error, source) from None
    told = ", ".join(f"{name} {value}" for name, value in recorded.items())
    notes = (f"network: {told} ({source.recorded.network_from})",) if told else ()
    return replace(
        recognised,
        notes=source.notes + notes + recognised.notes,
        assumptions=source.assumptions + recognised.assumptions,
    )


def _of_file(error: OtherNetwork, source: Source) -> OtherNetwork:
    """Return the error with the file and, if the folder names it, the network of timm in its command."""
    if source.recorded.architecture:
        error = error.named(f"timm:{source.recorded.architecture}")
    file = f"--checkpoint {shlex.quote(str(source.path))}"
    return OtherNetwork(str(error).replace("--checkpoint FILE", file), error.target)
