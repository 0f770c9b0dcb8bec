"""Reads what a classifier is given as, a checkpoint file or a library's folder."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from resonnx_export.assumptions.reading import NOTHING, Assumed
from resonnx_export.checkpoints.files import SourceFile, load_checkpoint
from resonnx_export.layouts.classifiers import recognise_classifier
from resonnx_export.layouts.recognised import RecognisedCheckpoint
from resonnx_export.sources import folders
from resonnx_export.sources.recorded import Recorded
from resonnx_export.sources.training import recorded_in


@dataclass(frozen=True)
class Source:
    """The tensors of a classifier by key, the files that they are in, and what is recorded beside them."""

    state_dict: dict[str, Tensor]
    files: tuple[SourceFile, ...]
    recorded: Recorded
    notes: tuple[str, ...] = ()


def read_source(path: Path) -> Source:
    """Read a checkpoint file, or a folder of Hugging Face or timm.

    Raises:
        BadInput: There are no weights, as load_checkpoint; or a configuration file is damaged, or of another network.
    """
    if path.is_dir():
        recorded = folders.read_recorded(path)
        state_dict, files, notes = folders.read_weights(path)
        return Source(state_dict, files, recorded, notes + recorded.notes)
    checkpoint = load_checkpoint(path)
    notes = checkpoint.notes
    if (path.parent / folders.CONFIG).is_file():
        notes += (
            f"{folders.CONFIG} beside the file was not read: give the folder, {path.parent}, for its labels and "
            "preprocessing",
        )
    return Source(checkpoint.state_dict, (checkpoint.file,), recorded_in(checkpoint.tree), notes)


def recognise_source(source: Source, *, assume: Assumed = NOTHING, stride_in_1x1: bool = False) -> RecognisedCheckpoint:
    """Build and load the network with the properties that are recorded, where the user states no others.

    Otherwise as recognise_classifier.
    """
    recorded = dict(source.recorded.network)
    if stride_in_1x1:
        recorded.pop("stride-in", None)
    recognised = recognise_classifier(source.state_dict, assume={**recorded, **assume}, stride_in_1x1=stride_in_1x1)
    return replace(recognised, notes=source.notes + recognised.notes)
