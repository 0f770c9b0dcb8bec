"""Reads what a classifier is given as, a checkpoint file or a library's folder."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from resonnx_export.checkpoints.files import SourceFile, load_checkpoint
from resonnx_export.errors import BadInput
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


def recognise_source(source: Source, *, stride_in_1x1: bool = False) -> RecognisedCheckpoint:
    """Build and load the network with the properties that are recorded; otherwise as recognise_classifier."""
    network = dict(source.recorded.network)
    in_1x1 = network.pop("stride-in", "") == "1x1"
    for name, value in network.items():
        usual = {"activation": "relu", "anti-aliasing": "none"}.get(name, value)
        if value != usual:
            raise BadInput(f"{source.recorded.network_from} tells {name} {value}; {usual} is exported")
    recognised = recognise_classifier(source.state_dict, stride_in_1x1=stride_in_1x1 or in_1x1)
    return replace(recognised, notes=source.notes + recognised.notes)
