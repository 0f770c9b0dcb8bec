"""The options that the commands for classifiers share, and the settings that they make."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from resonnx_export.options import (
    Activation,
    AllowReduced,
    Expect,
    Labels,
    MaxAccuracyDrop,
    Quantisation,
    Samples,
)
from resonnx_export.pictures.recipe import InputChanges
from resonnx_export.pictures.recipes import RecipeChoice, RecipeName

# Torch takes seconds to import; the command line does without for --help.
if TYPE_CHECKING:
    from PIL import Image

    from resonnx_export.answers.recorded import Answers
    from resonnx_export.classifier import ClassifierSettings
    from resonnx_export.pictures.calibration import ReferencePictures
    from resonnx_export.precision.trunk import StorageFor


@dataclass(frozen=True)
class ClassifierOptions:
    """Labels, preprocessing, typical pictures and answers."""

    labels: Labels = None
    recipe: Annotated[
        RecipeName | None,
        typer.Option(
            help="Preprocessing in training.  [default: as recorded beside the weights, or as the source suggests]"
        ),
    ] = None
    activation: Annotated[
        Activation | None,
        typer.Option(
            help="Turns logits into probabilities.  [default: as recorded or at the graph's end, else softmax]"
        ),
    ] = None
    pictures: Samples = None
    expect: Expect = None

    def samples(self, changes: InputChanges) -> "Sequence[Image.Image]":
        """Read the typical pictures. Raises BadInput as read_samples."""
        from resonnx_export.pictures.calibration import read_samples

        return read_samples(self.pictures, changes.decoding()) if self.pictures else ()

    def reference(self) -> "ReferencePictures | None":
        """Find the reference pictures. Raises BadInput as read_reference."""
        from resonnx_export.pictures.calibration import read_reference

        return read_reference(self.pictures) if self.pictures else None

    def answers(self) -> "Answers | None":
        """Read the answers of the user's model. Raises BadInput as read_answers."""
        from resonnx_export.answers.recorded import read_answers

        return read_answers(self.expect) if self.expect else None

    def settings(self, changes: InputChanges) -> "ClassifierSettings":
        """Read the files, and return the settings in float32. Raises BadInput."""
        from resonnx_export.class_names.files import read_class_names
        from resonnx_export.classifier import ClassifierSettings

        named = read_class_names(self.labels) if self.labels else None
        return ClassifierSettings(
            RecipeChoice(self.recipe, changes),
            named.names if named else None,
            allow_reduced=False,
            samples=self.samples(changes),
            reference=self.reference(),
            activation=self.activation,
            notes=named.notes if named else (),
            expect=self.answers(),
        )


@dataclass(frozen=True)
class NetworkOptions(ClassifierOptions):
    """Those of a network in PyTorch, whose precision is chosen as well."""

    allow_reduced: AllowReduced = True
    max_accuracy_drop: MaxAccuracyDrop = 0.5

    def stored(self, changes: InputChanges, quantisation: Quantisation) -> "ClassifierSettings":
        """Read the files, and return the settings with the precision. Raises BadInput."""
        settings = self.settings(changes)
        storage = self.storage(quantisation, settings.samples)
        return replace(settings, allow_reduced=self.allow_reduced, storage=storage)

    def storage(self, quantisation: Quantisation, samples: "Sequence[Image.Image]") -> "StorageFor | None":
        """Return the precision of the trunk. Raises BadInput as choose_storage."""
        from resonnx_export.precision.guard import Limits
        from resonnx_export.precision.trunk import choose_storage

        return choose_storage(quantisation, Limits(quantisation.min_agreement, self.max_accuracy_drop), samples)
