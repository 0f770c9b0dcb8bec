"""drift.npz: features and captions of a model on reference pictures, with which the server compares those of requests.

The exporter writes it (`--pictures`); the statistics are the server's, in drift/.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.model_files.npz import BadArchive, Expected, read_npz
from resonnx_server.runtime.session import Array

DRIFT: Final = "drift.npz"
MOST_BYTES: Final = 1 << 20
# Fewer pictures say too little about what is usual; more would make the file larger than it may be.
LEAST_PICTURES: Final = 100
MOST_PICTURES: Final = 1000
MOST_PROJECTIONS: Final = 32
# Fills the rows of `tokens` behind their captions.
NO_TOKEN: Final = -1
_MOST_FEATURES: Final = 1 << 15

Float = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True)
class DriftReference:
    """What is usual for a model.

    Attributes:
        directions: float32 [D,k]: random directions in the space of its D features (the output drift_features).
        projections: float32 [m,k]: the features of m reference pictures, projected on them.
        tokens: int32 [m,T]: the captions of these pictures, each filled up with NO_TOKEN; None for a classifier.
    """

    directions: Float
    projections: Float
    tokens: Tokens | None = None


def drift_fault(said: pb.DriftReference) -> str | None:
    """Return what is wrong with a manifest's `drift`, or None."""
    if not said.pictures:
        return None
    for field, least, most in (
        ("pictures", LEAST_PICTURES, MOST_PICTURES),
        ("features", 1, _MOST_FEATURES),
        ("projections", 1, MOST_PROJECTIONS),
    ):
        value = getattr(said, field)
        if not least <= value <= most:
            return f"drift.{field} {value} is not within {least}..{most}"
    return None


def dump_drift(reference: DriftReference) -> bytes:
    """Return `reference` as the content of drift.npz."""
    arrays: dict[str, Array] = {"directions": reference.directions, "projections": reference.projections}
    if reference.tokens is not None:
        arrays["tokens"] = reference.tokens
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def read_drift(files: Mapping[str, bytes], manifest: pb.Manifest) -> DriftReference | None:
    """Return the reference of a version's files; None if the manifest names none.

    Raises:
        ModelRefused: As parse_drift, or there is no drift.npz.
    """
    if not manifest.drift.pictures:
        return None
    if DRIFT not in files:
        raise ModelRefused(f"{DRIFT} is missing, and the manifest names it (drift.pictures)")
    return parse_drift(files[DRIFT], manifest)


def parse_drift(content: bytes, manifest: pb.Manifest) -> DriftReference:
    """Read drift.npz; shapes in its headers are checked before anything is unpacked.

    Raises:
        ModelRefused: It is damaged, too large, or does not fit the manifest.
    """
    said = manifest.drift
    shapes = {
        "directions": Expected(np.float32, (said.features, said.projections)),
        "projections": Expected(np.float32, (said.pictures, said.projections)),
    }
    if manifest.HasField("captioner"):
        shapes["tokens"] = Expected(np.int32, (said.pictures, None))
    try:
        arrays = read_npz(content, shapes.get, MOST_BYTES)
    except BadArchive as error:
        raise ModelRefused(f"{DRIFT} is not readable as a reference for drift: it {error}") from None
    if missing := sorted(shapes.keys() - arrays.keys()):
        raise ModelRefused(f"{DRIFT} has no {missing[0]}")
    reference = DriftReference(arrays["directions"], arrays["projections"], arrays.get("tokens"))
    if not (np.isfinite(reference.directions).all() and np.isfinite(reference.projections).all()):
        raise ModelRefused(f"{DRIFT} holds values that are not finite")
    if reference.tokens is not None:
        words = len(manifest.captioner.vocabulary)
        if not ((reference.tokens >= NO_TOKEN) & (reference.tokens < words)).all():
            raise ModelRefused(f"{DRIFT} holds tokens that are not below the vocabulary's size {words}")
    return reference
