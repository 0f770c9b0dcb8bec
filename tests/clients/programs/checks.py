"""What programs of Python clients share: how they are started, and what they expect of `digits` and `doubling`."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

X = np.arange(6, dtype=np.float32).reshape(2, 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Started:
    """What a program is told.

    Attributes:
        grpc: Address of the gRPC port that serves all methods.
        http: Address of the HTTP port.
        picture: A picture file of a digit.
        label: Its label.
        scene: A picture file of a scene.
        folder: For the program's own files.
    """

    grpc: str
    http: str
    picture: str
    label: str
    scene: str
    folder: str

    def picture_bytes(self) -> bytes:
        """Return the content of `picture`."""
        return Path(self.picture).read_bytes()

    def scene_bytes(self) -> bytes:
        """Return the content of `scene`."""
        return Path(self.scene).read_bytes()


def started() -> Started:
    """Return what the program's argument says."""
    return Started(**json.loads(sys.argv[1]))


def same(arrays: list[np.ndarray]) -> None:
    """Fail unless all arrays have the same bits."""
    assert arrays
    assert {(array.shape, array.tobytes()) for array in arrays} == {(arrays[0].shape, arrays[0].tobytes())}
