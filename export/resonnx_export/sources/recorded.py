"""What a checkpoint file or a library's folder records beside the weights of a classifier."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from resonnx_export.class_names.names import ClassNames
from resonnx_export.options import Activation
from resonnx_export.pictures.recipes import ToldPictures


@dataclass(frozen=True)
class Recorded:
    """Labels, preprocessing and properties of the network; each is absent if it is not recorded.

    Attributes:
        labels: The names of the classes.
        labels_from: Where they are, e.g. "config.json" or "class_to_idx".
        pictures: The preprocessing.
        network: Properties of the network that its keys do not show, by the names that `--assume` takes.
        network_from: Where they are.
        activation: What turns logits into probabilities.
        architecture: The name of the network in timm.
        notes: Lines for the user.
    """

    labels: ClassNames | None = None
    labels_from: str = ""
    pictures: ToldPictures | None = None
    network: Mapping[str, str] = field(default_factory=dict)
    network_from: str = ""
    activation: Activation | None = None
    architecture: str = ""
    notes: tuple[str, ...] = ()
