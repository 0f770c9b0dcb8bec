"""Whether the answers of two versions of a model can be compared."""

from resonnx_server.comparison.rule import FIELD, Rule
from resonnx_server.errors import InvalidInput, NotSupported
from resonnx_server.inference.model import Model
from resonnx_server.inference.tasks import CAPTION, CLASSIFY
from resonnx_server.runtime.pictures.options import PictureOptions


def check_comparable(base: Model, new: Model) -> None:
    """Raise NotSupported unless both take the same pictures, and give answers of the same kind."""
    which = f"versions {base.version} and {new.version} of model {base.name!r} cannot be compared"
    if base.task is not new.task:
        raise NotSupported(f"{which}: one is {base.task.noun}, the other {new.task.noun}")
    if base.task not in (CLASSIFY, CAPTION) or base.manifest is None or new.manifest is None:
        raise NotSupported(f"{which}: {base.task.noun} has no answers whose meaning is known; swap it by its labels")
    if base.pictures is None or new.pictures is None or _preparation(base.pictures) != _preparation(new.pictures):
        raise NotSupported(f"{which}: their pictures are prepared differently (size, crop, or settings of decoding)")
    if base.task is CLASSIFY and base.manifest.classifier.labels != new.manifest.classifier.labels:
        raise NotSupported(f"{which}: they have other classes, or in another order")
    if base.task is CAPTION and base.manifest.captioner.vocabulary != new.manifest.captioner.vocabulary:
        raise NotSupported(f"{which}: they have other vocabularies")


def _preparation(pictures: PictureOptions) -> tuple[object, ...]:
    """Return all that the pixels depend on; their normalisation is in the graph."""
    recipe = pictures.recipe
    size = recipe.width, recipe.height, recipe.resize, recipe.filter, recipe.resize_short_side
    return (*size, pictures.applies_exif, pictures.jpeg_scaling)


def check_rule(rule: Rule, model: Model, *, is_canary: bool) -> None:
    """Raise InvalidInput if a rule has a term that a comparison does not measure."""
    if "p99" in rule.terms and not is_canary:
        raise InvalidInput(FIELD, "p99 is measured in a canary only: a shadow answers nobody. Use compute, or --share")
    if model.task is CLASSIFY and "edit" in rule.terms:
        raise InvalidInput(FIELD, "edit is a measure of captions; a classifier has agreement, max_dp and mean_dp")
    for name in ("max_dp", "mean_dp"):
        if model.task is CAPTION and name in rule.terms:
            raise InvalidInput(FIELD, f"{name} is a measure of classifiers; a captioner has agreement and edit")
