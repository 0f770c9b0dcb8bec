"""Folders of pictures for int8: which half calibrates, which judges, and what is refused."""

from pathlib import Path

import pytest
from resonnx_export.errors import BadInput
from resonnx_export.pictures.calibration import read_calibration
from resonnx_proto.v1 import manifest_pb2 as pb

from ..conftest import LABELS as SMALL_LABELS


def test_half_calibrates_and_half_judges(pictures: Path, recipe: pb.ImageInput) -> None:
    calibration = read_calibration(pictures, recipe, SMALL_LABELS)
    assert calibration.fit.shape == calibration.held_back.shape == (8, 32, 32, 3)
    assert calibration.truths is not None
    assert set(calibration.truths) <= {0, 1, 2, 3}
    seen = {picture.tobytes() for picture in calibration.fit}
    assert not seen & {picture.tobytes() for picture in calibration.held_back}


def test_folders_that_are_no_labels_are_not_asked(pictures: Path, recipe: pb.ImageInput) -> None:
    assert read_calibration(pictures, recipe).truths is None
    assert read_calibration(pictures, recipe, ["cat", "dog"]).truths is None


def test_one_folder_that_is_no_label_is_named(pictures: Path, recipe: pb.ImageInput) -> None:
    (pictures / SMALL_LABELS[0]).rename(pictures / "clas 0")
    with pytest.raises(BadInput, match="clas 0 has pictures and is not named as a label"):
        read_calibration(pictures, recipe, SMALL_LABELS)


def test_unreadable_picture_is_named(pictures: Path, recipe: pb.ImageInput) -> None:
    broken = pictures / SMALL_LABELS[1] / "broken.png"
    broken.write_bytes(b"not a picture")
    with pytest.raises(BadInput, match=r"broken\.png: plain text that begins"):
        read_calibration(pictures, recipe, SMALL_LABELS)
    broken.write_bytes((pictures / SMALL_LABELS[1] / "1.png").read_bytes()[:500])
    with pytest.raises(BadInput, match=r"broken\.png: a PNG picture that is damaged"):
        read_calibration(pictures, recipe, SMALL_LABELS)


def test_too_few_pictures(tmp_path: Path, recipe: pb.ImageInput) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(BadInput, match="has 0 pictures"):
        read_calibration(tmp_path, recipe)
