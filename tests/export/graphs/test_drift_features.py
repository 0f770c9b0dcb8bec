"""The output drift_features: pooled features and the roughness of the picture, beside unchanged outputs."""

import numpy as np
from resonnx_export.graphs.drift_features import with_drift_features
from resonnx_export.precision.fp16 import to_fp16
from resonnx_export.proof.parity import open_session
from resonnx_server.runtime.graphs import DRIFT_FEATURES, IMAGE

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


def _roughness(images: np.ndarray) -> np.ndarray:
    pixels = images.astype(np.float64) / 255
    return np.abs(pixels[:, 0:31:4] - pixels[:, 1:32:4]).mean(axis=(1, 2))


def test_a_classifier_gives_its_features(model: bytes) -> None:
    outputs = open_session(with_drift_features(model)).run({IMAGE: IMAGES})
    for name, value in open_session(model).run({IMAGE: IMAGES}).items():
        np.testing.assert_array_equal(outputs[name], value)
    expected = np.concatenate([outputs["features"], _roughness(IMAGES)], axis=1)
    np.testing.assert_allclose(outputs[DRIFT_FEATURES], expected, rtol=1e-5, atol=1e-6)


def test_an_encoder_gives_all_that_the_decoder_gets(captioner_model: tuple[bytes, bytes]) -> None:
    encoder, _ = captioner_model
    outputs = open_session(with_drift_features(encoder)).run({IMAGE: IMAGES})
    given = open_session(encoder).run({IMAGE: IMAGES})
    assert {value.ndim for value in given.values()} == {2, 3}
    parts = [value.mean(axis=tuple(range(1, value.ndim - 1))) for value in given.values()]
    expected = np.concatenate([*parts, _roughness(IMAGES)], axis=1)
    np.testing.assert_allclose(outputs[DRIFT_FEATURES], expected, rtol=1e-5, atol=1e-6)


def test_the_trunk_may_be_in_reduced_precision(model: bytes) -> None:
    model = with_drift_features(model)
    full, reduced = (open_session(each).run({IMAGE: IMAGES})[DRIFT_FEATURES] for each in (model, to_fp16(model)))
    assert reduced.dtype == np.float32
    assert not np.array_equal(full, reduced)
    np.testing.assert_allclose(reduced, full, atol=0.02 * np.abs(full).max())
