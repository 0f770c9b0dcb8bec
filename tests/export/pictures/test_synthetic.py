"""Pictures of the checks, and normalisation that is refused."""

import pytest
from resonnx_export.errors import BadInput
from resonnx_export.pictures.recipe import image_input
from resonnx_export.pictures.synthetic import check_pictures


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5,) * 2, (0.5,) * 3), ((0.5,) * 3, (0.5, 0, 0.5)), ((float("nan"),) * 3, (1,) * 3)]
)
def test_normalisation_that_is_none(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(BadInput, match="three numbers"):
        image_input(32, resize_short_side=None, mean=mean, std=std)


def test_check_pictures_repeat_and_differ() -> None:
    recipe = image_input(20, resize_short_side=None)
    pictures = check_pictures(recipe, 16, seed=1)
    assert pictures.shape == (16, 20, 20, 3)
    assert (pictures == check_pictures(recipe, 16, seed=1)).all()
    assert (pictures != check_pictures(recipe, 16, seed=2)).any()
    flat = {(picture.min(), picture.max()) for picture in pictures}
    assert {(0, 0), (255, 255), (0, 255)} <= flat
