"""What report.html is made of: overlays, histograms, the hardest examples, and names of hardware."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_export.proof.predictions import hardest_first, predictions_differ
from resonnx_export.publish.speed import accelerators, processor
from resonnx_export.report.hardest import hardest_pictures
from resonnx_export.report.histogram import histogram
from resonnx_export.report.pictures import overlay_uri, picture_uri
from resonnx_proto.v1 import manifest_pb2 as pb

from ..conftest import LABELS
from .report_page import Page, decoded, rendered, some_predictions


def lightness(overlay: np.ndarray) -> np.ndarray:
    return overlay[..., :3].astype(float).sum(axis=2)


def brightest(overlay: np.ndarray, rows: int, columns: int) -> tuple[int, int]:
    """Where an overlay's centre of light is, as a cell of the grid."""
    light = lightness(overlay)
    y, x = np.nonzero(light == light.max())
    return int(y.mean() * rows / light.shape[0]), int(x.mean() * columns / light.shape[1])


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (7, 7), (14, 14), (2, 5)])
def test_overlay_is_brightest_where_attention_is(rows: int, columns: int) -> None:
    for row in range(rows):
        attention = np.full((rows, columns), 0.01, np.float32)
        attention[row, row % columns] = 0.6
        attention[(row + 1) % rows, 0] += 0.2
        overlay = decoded(overlay_uri(attention))
        assert overlay.shape[2] == 4
        assert brightest(overlay, rows, columns) == (row, row % columns)


@given(st.lists(st.floats(0, 1e6, width=32), max_size=200), st.floats(1, 1e6))
def test_every_difference_is_counted_where_it_belongs(values: list[float], room: float) -> None:
    array = np.array(values, np.float32)
    counted = histogram([array[::2], array[1::2]], room * (float(array.max(initial=0)) or 1e-6))
    if not values:
        assert counted is None
        return
    assert counted is not None
    assert counted.total == sum(bar.count for bar in counted.bars) == len(values)
    assert counted.greatest == array.max()
    for before, bar in zip(counted.bars, counted.bars[1:], strict=False):
        assert before.high == bar.low
        # A value on an edge may be counted on either side of it.
        inside = (array > bar.low * (1 + 1e-6)) & (array < bar.high * (1 - 1e-6))
        around = (array >= bar.low * (1 - 1e-6)) & (array <= bar.high * (1 + 1e-6))
        assert inside.sum() <= bar.count <= around.sum()
    assert counted.left < counted.bound_x <= counted.width
    for bar in counted.bars:
        assert counted.left <= bar.x <= counted.width - bar.width
        assert (bar.height > 0) == (bar.count > 0)
        assert counted.top - 0.01 <= bar.y <= counted.bottom


def test_histogram_counts_all_that_was_compared(manifest: pb.Manifest) -> None:
    page = Page(rendered(some_predictions(40, 7), manifest))
    assert sum(int(bar.attributes["data-count"]) for bar in page.all("rect")) == 40 * 7
    assert "280 absolute differences" in page.text


def test_the_hardest_comes_first(manifest: pb.Manifest) -> None:
    predictions = some_predictions(20, 7)
    expected, found = predictions.expected, predictions.expected.copy()
    found[3, 2] += 0.25
    found[5, expected[5].argmin()] += 0.5
    found[11] = found[11][::-1]
    pixels = predictions.pictures.pixels
    pixels[6] = pixels[5]
    found[6] = found[5]
    expected[6] = expected[5]
    changed = predictions_differ(expected, found, pb.ClassifierSpec.ACTIVATION_SOFTMAX)
    changed[[3, 5, 6]], changed[11] = False, True
    predictions = replace(predictions, expected=expected, found=found, changed=changed)
    assert hardest_first(predictions)[:3] == [11, 5, 3]
    assert len(hardest_first(predictions)) == 19
    shown = hardest_pictures(predictions, manifest, typical=True)
    assert np.array_equal(decoded(shown[0].picture), pixels[11])
    assert (shown[0].changed, shown[1].changed) == (True, False)
    assert shown[1].difference == pytest.approx(0.5)
    assert hardest_pictures(predictions, manifest, typical=False) == []
    row = next(row for row in shown[0].prediction["classes"] if row.expected_first)
    assert row.label == LABELS[expected[11].argmax()]
    assert row.difference == pytest.approx(found[11, expected[11].argmax()] - expected[11].max())


@pytest.mark.parametrize(
    ("activation", "score"),
    [
        (pb.ClassifierSpec.ACTIVATION_SOFTMAX, "66.52 %"),
        (pb.ClassifierSpec.ACTIVATION_SIGMOID, "88.08 %"),
        (pb.ClassifierSpec.ACTIVATION_NONE, "2"),
    ],
)
def test_scores_are_the_models(activation: pb.ClassifierSpec.Activation, score: str, manifest: pb.Manifest) -> None:
    own = pb.Manifest()
    own.CopyFrom(manifest)
    own.classifier.CopyFrom(pb.ClassifierSpec(labels=["a", "b", "c"], activation=activation))
    logits = np.array([[2.0, 1.0, 0.0]], np.float32)
    predictions = replace(some_predictions(1, 3), expected=logits, found=logits, changed=np.zeros(1, bool))
    assert hardest_pictures(predictions, own, typical=True)[0].prediction["classes"][0].found == score


def test_pictures_are_exact_where_they_are_small() -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (32, 48, 3), np.uint8)
    assert np.array_equal(decoded(picture_uri(small)), small)
    uri = picture_uri(rng.integers(0, 256, (448, 448, 3), np.uint8))
    assert decoded(uri).shape == (224, 224, 3)
    assert len(uri) < 100_000


def test_hardware_is_named(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz  \nmodel name : other\n")
    assert processor(tmp_path / "cpuinfo") == "Some CPU @ 2 GHz"
    assert processor(tmp_path / "none")
    assert accelerators(tmp_path / "none") == []
    for i in range(2):
        (tmp_path / "gpus" / str(i)).mkdir(parents=True)
        (tmp_path / "gpus" / str(i) / "information").write_text(f"Model: \t\t Some GPU {i}\nIRQ: 7\n")
    assert accelerators(tmp_path / "gpus") == ["Some GPU 0", "Some GPU 1"]
