"""drift.npz of an export: the features that its own graphs give, read back as the server reads them."""

import re
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from resonnx_export.graphs.drift_features import with_drift_features
from resonnx_export.pictures.calibration import ReferencePictures, read_reference, reference_of
from resonnx_export.progress import silent
from resonnx_export.proof.parity import open_session
from resonnx_export.publish.drift_reference import drift_reference
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.drift.drift import Drift
from resonnx_server.runtime.decoding.greedy import decode_all
from resonnx_server.runtime.graphs import DRIFT_FEATURES, IMAGE, CaptionerGraphs
from resonnx_server.runtime.model_files.drift_reference import DRIFT, NO_TOKEN, parse_drift
from resonnx_server.runtime.model_files.manifest import CLASSIFIER_FILE, DECODER_FILE, ENCODER_FILE, dump_manifest

from ..conftest import WORDS

PIXELS = np.random.default_rng(3).integers(0, 256, (120, 32, 32, 3), np.uint8)


def _given(count: int) -> ReferencePictures:
    def pictures(_: pb.ImageInput) -> Iterator[Image.Image]:
        return map(Image.fromarray, PIXELS[:count])

    return reference_of(count, pictures)


@pytest.fixture
def plain(manifest: pb.Manifest) -> pb.Manifest:
    """The manifest of a model whose input are the pixels themselves."""
    changed = pb.Manifest()
    changed.CopyFrom(manifest)
    changed.input.resize = pb.ImageInput.RESIZE_STRETCH
    changed.input.ClearField("resize_short_side")
    return changed


def test_a_classifiers_reference(model: bytes, plain: pb.Manifest) -> None:
    files = {CLASSIFIER_FILE: with_drift_features(model)}
    content = drift_reference(files, plain, _given(120), silent)
    assert content is not None
    features = open_session(files[CLASSIFIER_FILE]).run({IMAGE: PIXELS}, [DRIFT_FEATURES])[DRIFT_FEATURES]
    assert plain.drift == pb.DriftReference(pictures=120, features=features.shape[1], projections=24)
    assert b"drift" in dump_manifest(plain)
    found = parse_drift(content, plain)
    np.testing.assert_allclose(found.projections, features @ found.directions, rtol=1e-3, atol=1e-4)
    # The same again, and the server takes it.
    assert drift_reference(files, plain, _given(120), silent) == content
    drift = Drift.of({DRIFT: content}, plain)
    assert drift is not None
    drift.requests.add_pictures(features)
    assert all(reading.distance < reading.bound for _, reading in drift.requests.readings())


def test_a_captioners_reference(captioner_model: tuple[bytes, bytes], plain: pb.Manifest) -> None:
    encoder, decoder = captioner_model
    spec = pb.CaptionerSpec(vocabulary=WORDS, start_id=1, end_id=2, max_tokens=6)
    manifest = pb.Manifest(task=pb.TASK_CAPTIONER, input=plain.input, captioner=spec)
    attention = open_session(decoder).outputs[-1].shape[1]
    spec.attention_rows, spec.attention_columns = attention, 1
    manifest.captioner.CopyFrom(spec)
    files = {ENCODER_FILE: with_drift_features(encoder), DECODER_FILE: decoder}
    content = drift_reference(files, manifest, _given(100), silent)
    assert content is not None
    found = parse_drift(content, manifest)
    assert found.tokens is not None
    graphs = CaptionerGraphs(open_session(files[ENCODER_FILE]), open_session(decoder), manifest)
    for row, sequence in zip(found.tokens, decode_all(graphs, PIXELS[:100], spec), strict=True):
        assert row[row != NO_TOKEN].tolist() == [token.id for token in sequence.tokens]


@pytest.mark.parametrize(
    ("pictures", "why"),
    [(None, "no reference pictures were given"), (_given(99), "has 99 pictures, and a .* takes 100")],
)
def test_why_there_is_none_is_in_the_manifest(model, plain, pictures, why) -> None:
    assert drift_reference({CLASSIFIER_FILE: model}, plain, pictures, silent) is None
    assert plain.drift.pictures == 0
    assert re.search(why, plain.drift.absent)
    assert Drift.of({}, plain) is None


def test_pictures_of_a_folder_come_in_batches(pictures, plain: pb.Manifest) -> None:
    found = read_reference(pictures)
    assert found.count == 16
    assert np.concatenate(list(found.batches(plain.input))).shape == (16, 32, 32, 3)
