"""How changes to a picture recipe leave the rest of it."""

import pytest
from resonnx_export.errors import BadInput
from resonnx_export.recipe import InputChanges, image_input
from resonnx_proto.v1 import manifest_pb2 as pb

pytestmark = pytest.mark.usefixtures("torch_seeded")


def test_changes_keep_what_is_not_changed() -> None:
    crop = image_input(224, resize_short_side=256)
    assert InputChanges().apply(crop) == crop
    assert InputChanges(size=56).apply(crop).resize_short_side == 64
    stretched = InputChanges(stretch=True, resize_filter="bicubic").apply(crop)
    assert (stretched.resize, stretched.filter) == (pb.ImageInput.RESIZE_STRETCH, pb.ImageInput.FILTER_BICUBIC)
    with pytest.raises(BadInput, match="exclude each other"):
        InputChanges(stretch=True, resize_short_side=300).apply(crop)
