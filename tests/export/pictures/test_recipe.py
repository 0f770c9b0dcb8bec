"""How changes to a picture recipe leave the rest of it."""

from pathlib import Path

import pytest
import resonnx_export
from resonnx_export.errors import BadInput
from resonnx_export.pictures.recipe import InputChanges, image_input
from resonnx_export.pictures.recipes import RECIPES, RecipeChoice
from resonnx_proto.v1 import manifest_pb2 as pb

pytestmark = pytest.mark.usefixtures("torch_seeded")


def test_changes_keep_what_is_not_changed() -> None:
    crop = image_input(224, resize_short_side=256)
    assert InputChanges().apply(crop) == crop
    assert InputChanges(size=56).apply(crop).resize_short_side == 64
    stretched = InputChanges(stretch=True, resize_filter="bicubic").apply(crop)
    assert (stretched.resize, stretched.filter) == (pb.ImageInput.RESIZE_STRETCH, pb.ImageInput.FILTER_BICUBIC)
    upright = InputChanges(exif_orientation="apply").apply(crop)
    assert upright.exif_orientation == pb.ImageInput.EXIF_ORIENTATION_APPLY
    assert InputChanges(size=56).apply(upright).exif_orientation == pb.ImageInput.EXIF_ORIENTATION_APPLY
    assert InputChanges(exif_orientation="ignore").apply(upright) == crop
    with pytest.raises(BadInput, match="exclude each other"):
        InputChanges(stretch=True, resize_short_side=300).apply(crop)


def test_a_recipe_tells_what_it_does_about_orientation() -> None:
    """The line that the command prints and the report shows."""
    assert RECIPES["torchvision-v1"].exif_orientation == pb.ImageInput.EXIF_ORIENTATION_IGNORE
    _, told = RecipeChoice().for_layout("torchvision")
    assert "EXIF orientation ignored (recipe torchvision-v1;" in told
    _, told = RecipeChoice(changes=InputChanges(exif_orientation="apply")).for_layout("torchvision")
    assert "EXIF orientation applied (recipe torchvision-v1, with the changes given" in told


def test_a_picture_option_is_in_one_module_of_the_exporter() -> None:
    package = Path(resonnx_export.__file__).parent
    naming = [path for path in package.rglob("*.py") if "exif" in path.read_text().lower()]
    assert naming == [package / "pictures" / "recipe.py"]
