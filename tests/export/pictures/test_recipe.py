"""How changes to a picture recipe leave the rest of it."""

from pathlib import Path

import numpy as np
import pytest
import resonnx_export
from resonnx_export.errors import BadInput
from resonnx_export.pictures.examples import example_files
from resonnx_export.pictures.recipe import InputChanges, Size, describe, image_input, training_pixels
from resonnx_export.pictures.recipes import RECIPES, RecipeChoice
from resonnx_export.proof.reference import normalise
from resonnx_proto.v1 import manifest_pb2 as pb

pytestmark = pytest.mark.usefixtures("torch_seeded")


def test_changes_keep_what_is_not_changed() -> None:
    crop = image_input(224, resize_short_side=256)
    assert InputChanges().apply(crop) == crop
    assert InputChanges(size=Size(56, 56)).apply(crop).resize_short_side == 64
    stretched = InputChanges(stretch=True, resize_filter="bicubic").apply(crop)
    assert (stretched.resize, stretched.filter) == (pb.ImageInput.RESIZE_STRETCH, pb.ImageInput.FILTER_BICUBIC)
    upright = InputChanges(exif_orientation="apply").apply(crop)
    assert upright.exif_orientation == pb.ImageInput.EXIF_ORIENTATION_APPLY
    assert InputChanges(size=Size(56, 56)).apply(upright).exif_orientation == pb.ImageInput.EXIF_ORIENTATION_APPLY
    assert InputChanges(exif_orientation="ignore").apply(upright) == crop
    with pytest.raises(BadInput, match="exclude each other"):
        InputChanges(stretch=True, resize_short_side=300).apply(crop)


def test_a_recipe_tells_what_it_does_about_orientation() -> None:
    """The line that the command prints and the report shows."""
    assert RECIPES["torchvision-v1"].exif_orientation == pb.ImageInput.EXIF_ORIENTATION_IGNORE
    _, told, _ = RecipeChoice().for_layout("torchvision")
    assert "EXIF orientation ignored (recipe torchvision-v1)" in told
    _, told, _ = RecipeChoice(changes=InputChanges(exif_orientation="apply")).for_layout("torchvision")
    assert "EXIF orientation applied (recipe torchvision-v1 with --exif-orientation apply)" in told


def test_a_recipe_tells_its_changes() -> None:
    """A mean and a deviation for pixels 0..1 do not apply to 0..255."""
    changes = InputChanges(scale="255", size=Size(64, 32))
    _, told, assumptions = RecipeChoice(changes=changes).for_layout("torchvision")
    changed = "(recipe torchvision-v1 with --size 64x32, --scale 255, without its mean and std)"
    assert changed in told
    values = {each.name: each.value for each in assumptions}
    assert values["normalisation"] == f"mean 0,0,0, std 1,1,1 {changed}"
    assert values["resizing"].endswith(changed)
    given = InputChanges(scale="255", mean=(128.0,) * 3, std=(64.0,) * 3)
    assert (
        "(recipe cifar with --scale 255, --mean 128,128,128, --std 64,64,64)"
        in RecipeChoice("cifar", given).for_layout("").note
    )
    _, told, assumptions = RecipeChoice(changes=InputChanges(channel_order="bgr")).for_layout("torchvision")
    assert "(recipe torchvision-v1 with --channel-order bgr)" in told
    assert {each.name: each.value for each in assumptions}["normalisation"].endswith("(recipe torchvision-v1)")


def test_a_picture_option_is_in_one_module_of_the_exporter() -> None:
    package = Path(resonnx_export.__file__).parent
    naming = [path for path in package.rglob("*.py") if "exif_orientation" in path.read_text().lower()]
    assert naming == [package / "pictures" / "recipe.py"]


def test_height_comes_before_width() -> None:
    recipe = InputChanges(size=Size(256, 128)).apply(image_input(224, resize_short_side=256))
    assert (recipe.height, recipe.width, recipe.resize) == (256, 128, pb.ImageInput.RESIZE_STRETCH)
    assert describe(recipe).startswith("256x128 (height x width), stretched")
    cropped = InputChanges(size=Size(256, 128), resize_short_side=300).apply(recipe)
    for each in (recipe, cropped):
        assert training_pixels(example_files(each)[0], each).shape == (256, 128, 3)
    with pytest.raises(BadInput, match="resize-short-side 200 is less than the crop's longer side of 256"):
        InputChanges(size=Size(256, 128), resize_short_side=200).apply(recipe)


def test_mean_and_deviation_are_in_the_units_of_the_training_code() -> None:
    crop = image_input(224, resize_short_side=256)
    caffe = InputChanges(channel_order="bgr", scale="255", mean=(103.939, 116.779, 123.68)).apply(crop)
    assert (list(caffe.std), caffe.pixel_scale) == ([1, 1, 1], 255)
    assert "BGR, pixels 0..255, mean 103.939,116.779,123.68, std 1,1,1" in describe(caffe)
    assert InputChanges(size=Size(56, 56)).apply(caffe).mean == caffe.mean
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), np.uint8)
    blue_first = pixels[:, :, :, ::-1].astype(np.float32) - np.float32([103.939, 116.779, 123.68])
    np.testing.assert_array_equal(normalise(pixels, caffe).numpy(), blue_first.transpose(0, 3, 1, 2))
    with pytest.raises(BadInput, match="add --scale 255"):
        InputChanges(mean=(103.939, 116.779, 123.68)).apply(crop)


def test_what_the_user_does_not_state_is_assumed() -> None:
    def told(choice: RecipeChoice) -> dict[str, tuple[str, bool]]:
        return {each.name: (each.value, each.confirmed) for each in choice.for_layout("torchvision").assumptions}

    nothing = told(RecipeChoice())
    assert nothing["channel-order"] == ("rgb", False)
    assert nothing["scale"] == ("1", False)
    assert nothing["normalisation"][0] == "mean 0.485,0.456,0.406, std 0.229,0.224,0.225 (recipe torchvision-v1)"
    assert not any(confirmed for _, confirmed in nothing.values())
    some = told(RecipeChoice(changes=InputChanges(size=Size(64, 64), stretch=True, mean=(0.5,) * 3, std=(0.5,) * 3)))
    assert some["resizing"] == ("bilinear, EXIF orientation ignored (recipe torchvision-v1)", False)
    assert some["normalisation"] == ("mean 0.5,0.5,0.5, std 0.5,0.5,0.5", True)
    assert told(RecipeChoice("hf")) == {"preprocessing": ("recipe hf", True)}
