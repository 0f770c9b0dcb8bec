"""Makes drift.npz: runs the finished graphs on reference pictures, as the server will run them on those of requests."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import numpy as np
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.decoding.greedy import decode_all
from resonnx_server.runtime.graphs import DRIFT_FEATURES, IMAGE, CaptionerGraphs
from resonnx_server.runtime.model_files.drift_reference import (
    LEAST_PICTURES,
    MOST_PROJECTIONS,
    NO_TOKEN,
    DriftReference,
    Float,
    Tokens,
    dump_drift,
)
from resonnx_server.runtime.model_files.manifest import CLASSIFIER_FILE, DECODER_FILE, ENCODER_FILE
from resonnx_server.runtime.pictures.images import Pixels

from resonnx_export.pictures.calibration import ReferencePictures
from resonnx_export.progress import Progress
from resonnx_export.proof.captions import beam_captions, tokens_of
from resonnx_export.proof.parity import open_session

_SEED: Final = 5000
# So that a covariance of the projections can be estimated on the pictures.
_PICTURES_A_PROJECTION: Final = 5
# Of directions, so that the file stays below its limit with projections and captions.
_MOST_BYTES: Final = 600_000
# A feature that hardly varies on the reference pictures counts as if it varied by this share of the usual: else its
# least change would count most.
_LEAST_SPREAD: Final = 0.1


def is_possible(pictures: ReferencePictures | None) -> bool:
    """Return whether there are enough pictures for a reference."""
    return pictures is not None and pictures.count >= LEAST_PICTURES


def drift_reference(
    files: Mapping[str, bytes], manifest: pb.Manifest, pictures: ReferencePictures | None, progress: Progress
) -> bytes | None:
    """Return drift.npz of a version's ONNX files, or None, and write its sizes or its absence into the manifest.

    Args:
        files: The ONNX files by name, as they will serve; with the output drift_features.
        manifest: Is changed.
        pictures: Pictures that the network was not trained on.
        progress: Called as the stage begins, if there are enough pictures.

    Raises:
        BadInput: A picture cannot be decoded.
    """
    if pictures is None:
        manifest.drift.absent = "no reference pictures were given (--pictures)"
        return None
    if not is_possible(pictures):
        manifest.drift.absent = f"--pictures has {pictures.count} pictures, and a reference takes {LEAST_PICTURES}"
        return None
    progress("reference pictures")
    features, tokens = [], []
    for batch, captions in _answers(files, manifest, pictures.batches(manifest.input)):
        features.append(batch)
        tokens += captions
    reference = _projected(np.concatenate(features), tokens)
    count, size = reference.projections.shape
    manifest.drift.CopyFrom(pb.DriftReference(pictures=count, features=len(reference.directions), projections=size))
    return dump_drift(reference)


def _answers(
    files: Mapping[str, bytes], manifest: pb.Manifest, batches: Iterable[Pixels]
) -> Iterator[tuple[Float, list[Tokens]]]:
    """Yield the features of each batch and, of a captioner, its captions."""
    if CLASSIFIER_FILE in files:
        session = open_session(files[CLASSIFIER_FILE])
        for pixels in batches:
            yield session.run({IMAGE: pixels}, [DRIFT_FEATURES])[DRIFT_FEATURES], []
        return
    encoder, spec = open_session(files[ENCODER_FILE]), manifest.captioner
    graphs = CaptionerGraphs(encoder, open_session(files[DECODER_FILE]), manifest)
    for pixels in batches:
        # As a request without options is decoded.
        beams = spec.beam_width > 1
        decoded = beam_captions(graphs, pixels, spec, spec.beam_width) if beams else decode_all(graphs, pixels, spec)
        captions = [np.asarray(tokens_of(each), np.int32) for each in decoded]
        yield encoder.run({IMAGE: pixels}, [DRIFT_FEATURES])[DRIFT_FEATURES], captions


def _projected(features: Float, captions: list[Tokens]) -> DriftReference:
    """Project features [m,D] on random directions, after scaling each feature to the same spread."""
    rows, size = features.shape
    count = min(MOST_PROJECTIONS, rows // _PICTURES_A_PROJECTION, max(1, _MOST_BYTES // (4 * size)))
    spread = features.std(axis=0, dtype=np.float64)
    usual = float(np.median(spread[spread > 0])) if (spread > 0).any() else 1.0
    scale = 1 / np.maximum(spread, _LEAST_SPREAD * usual) / np.sqrt(size)
    random = np.random.default_rng(_SEED).standard_normal((size, count))
    directions = (random * scale[:, None]).astype(np.float32)
    tokens = None
    if captions:
        tokens = np.full((rows, max(map(len, captions))), NO_TOKEN, np.int32)
        for row, caption in enumerate(captions):
            tokens[row, : len(caption)] = caption
    return DriftReference(directions, features @ directions, tokens)
