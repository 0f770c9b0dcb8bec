"""The drift of one version: of pictures, and of a captioner's captions; on requests, and on comparisons of versions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_server.drift.cells import caption_cells, picture_cells
from resonnx_server.drift.estimate import Estimate, Reading
from resonnx_server.drift.usual import Usual
from resonnx_server.runtime.model_files.drift_reference import NO_TOKEN, Float, read_drift

PICTURES: Final = "pictures"
CAPTIONS: Final = "captions"


class Watch:
    """Estimates on one kind of traffic. Event loop only.

    Args:
        directions: float32 [D,k].
        pictures: The reference's projections.
        captions: The reference's captions; None for a classifier.
        longest: Tokens of a caption beyond these are left out.
    """

    def __init__(self, directions: Float, pictures: Usual, captions: Usual | None, longest: int) -> None:
        self._directions, self._longest = directions, longest
        self._pictures = Estimate(pictures, directions.shape[1])
        self._captions = None if captions is None else Estimate(captions, longest, np.int32, NO_TOKEN)

    def add_pictures(self, features: Float) -> None:
        """Add the features [n,D] of a batch, without padding."""
        self._pictures.add(features @ self._directions)

    def add_caption(self, tokens: Sequence[int]) -> None:
        """Add the tokens of one caption."""
        if self._captions is not None:
            self._captions.add(np.array([tokens[: self._longest]], np.int32))

    def readings(self) -> Iterator[tuple[str, Reading]]:
        """Yield what each reading is of, and the reading."""
        yield from ((PICTURES, reading) for reading in self._pictures.readings())
        if self._captions is not None:
            yield from ((CAPTIONS, reading) for reading in self._captions.readings())


@dataclass(frozen=True)
class Drift:
    """A version's watches: of requests, and of pictures that it got to be compared with another version."""

    requests: Watch
    comparison: Watch

    @classmethod
    def of(cls, files: Mapping[str, bytes], manifest: pb.Manifest) -> Self | None:
        """Return the drift of a version, calibrated in a tenth of a second; None without reference pictures.

        Raises:
            ModelRefused: As read_drift.
        """
        reference = read_drift(files, manifest)
        if reference is None:
            return None
        pictures = Usual.of(reference.projections, picture_cells)
        captions = None if reference.tokens is None else Usual.of(reference.tokens, caption_cells)
        longest = manifest.captioner.max_tokens
        watches = (Watch(reference.directions, pictures, captions, longest) for _ in range(2))
        return cls(*watches)
