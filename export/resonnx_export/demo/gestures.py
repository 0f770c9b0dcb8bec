"""Clips of one handwritten digit that moves, and which way it does: the only correct label of each.

Least speeds, so that people see motion in the shortest clip: 1/64 of the side a frame for a shift, 6 degrees a frame
for a turn (of a zero, too), 3.5 % a frame for a change of size. What a motion leaves alone stays as it is, but for the
trembling of a hand, of at most an eighth of the least speed.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from resonnx_export.demo.digits import UInt8, enlarge, stroke
from resonnx_export.demo.paper import background

Float64 = npt.NDArray[np.float64]

LABELS: Final = ("left", "right", "up", "down", "clockwise", "counterclockwise", "grow", "shrink")
# Side of a frame in pixels.
INPUT_SIZE: Final = 64
# Least and greatest number of frames.
FRAMES: Final = (8, 24)

# Heights of digits that do not change theirs, in pixels.
_SIZES = (24.0, 34.0)
# Heights at both ends of a change of size.
_SMALL, _LARGE = 18.0, 52.0
# Least and greatest speeds, a frame: pixels, degrees, logarithms of sizes.
SHIFT: Final = (1.0, 3.0)
TURN: Final = (6.0, 18.0)
GROWTH: Final = (math.log(1.035), math.log(1.12))
# The hand's trembling as a share of the least speed.
_TREMBLING = 0.125
_EDGE = 1.0
# Greatest tilt of a digit that does not turn, and of one that begins to, in degrees.
_TILT = 15.0
# Side in pixels of the ink that frames are drawn from.
_INK = 48
# The lightest pen.
_PEN = 110


@dataclass(frozen=True)
class Clip:
    """Frames uint8 [T,64,64,3] and the label of their motion."""

    frames: UInt8
    label: str


@dataclass
class Path:
    """A digit's place in T frames, each [T]: its centre from the picture's in pixels, its turn, its height in pixels.

    Turns are in degrees, clockwise; x grows to the right, y down.
    """

    x: Float64
    y: Float64
    degrees: Float64
    size: Float64


def compose(rng: np.random.Generator, ink: UInt8, label: str) -> Clip:
    """Draw a clip of one digit, ink [s,s], that moves as the label says; same rng state, same clip."""
    path = path_of(rng, label)
    canvas = background(rng, INPUT_SIZE)
    pen = rng.uniform(0, _PEN, 3).astype(np.float32)
    source = Image.fromarray(enlarge(ink, _INK))
    frames = []
    for x, y, degrees, size in zip(path.x, path.y, path.degrees, path.size, strict=True):
        drawn = stroke(np.asarray(_placed(source, x, y, degrees, size)))
        alpha = drawn[..., None] * np.float32(1 / 255)
        frames.append((canvas + alpha * (pen - canvas)).clip(0, 255).astype(np.uint8))
    return Clip(np.stack(frames), label)


def compose_any(rng: np.random.Generator, ink: UInt8, count: int) -> Iterator[Clip]:
    """Draw clips, each of one of the digits, ink [N,s,s], with any label."""
    for _ in range(count):
        yield compose(rng, ink[rng.integers(len(ink))], LABELS[rng.integers(len(LABELS))])


def path_of(rng: np.random.Generator, label: str) -> Path:
    """Return the path of a digit of a clip with this label."""
    count = int(rng.integers(*FRAMES, endpoint=True))
    path = _resting(rng, count)
    if label in ("grow", "shrink"):
        path.size = path.size / path.size.mean() * _grown(rng, count)[:: 1 if label == "grow" else -1]
    elif label in ("clockwise", "counterclockwise"):
        path.degrees += _moved(rng, TURN, count) * (1 if label == "clockwise" else -1)
    room = (INPUT_SIZE - float(path.size.max())) / 2 - _EDGE
    x, y = rng.uniform(-room, room, 2)
    if label in ("left", "right", "up", "down"):
        moved = _moved(rng, (SHIFT[0], min(SHIFT[1], 2 * room / (count - 1))), count)
        line = (rng.uniform(-room, room - moved[-1]) + moved) * (1 if label in ("right", "down") else -1)
        x, y = (line, y) if label in ("left", "right") else (x, line)
    path.x += x
    path.y += y
    return path


def _resting(rng: np.random.Generator, count: int) -> Path:
    """Return the path of a digit in the middle that a hand holds still."""

    def trembling(least: float) -> Float64:
        return rng.uniform(-_TREMBLING * least, _TREMBLING * least, count)

    return Path(
        x=trembling(SHIFT[0]),
        y=trembling(SHIFT[0]),
        degrees=rng.uniform(-_TILT, _TILT) + trembling(TURN[0]),
        size=rng.uniform(*_SIZES) * np.exp(trembling(GROWTH[0])),
    )


def _moved(rng: np.random.Generator, speeds: tuple[float, float], count: int) -> Float64:
    """Return how far it has moved at each frame, [T], from 0, at one speed."""
    moved: Float64 = rng.uniform(*speeds) * np.arange(count, dtype=np.float64)
    return moved


def _grown(rng: np.random.Generator, count: int) -> Float64:
    """Return heights [T] that grow, within the bounds."""
    most = min(GROWTH[1], math.log(_LARGE / _SMALL) / (count - 1))
    moved = _moved(rng, (GROWTH[0], most), count)
    heights: Float64 = np.exp(rng.uniform(math.log(_SMALL), math.log(_LARGE) - moved[-1]) + moved)
    return heights


def _placed(source: Image.Image, x: float, y: float, degrees: float, size: float) -> Image.Image:
    """Return ink [64,64] with the source's drawn at a place: PIL maps each pixel back to the source's."""
    scale = _INK / size
    angle = math.radians(degrees)
    cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
    centre_x, centre_y = INPUT_SIZE / 2 + x, INPUT_SIZE / 2 + y
    matrix = (
        *(cos, sin, _INK / 2 - cos * centre_x - sin * centre_y),
        *(-sin, cos, _INK / 2 + sin * centre_x - cos * centre_y),
    )
    return source.transform((INPUT_SIZE, INPUT_SIZE), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
