"""Pictures of one to three handwritten digits, and the only correct caption of each.

    scene  = row | row "above" row          rows are read from top to bottom
    row    = digit | digit "left of" digit  digits are read from left to right
    digit  = "a" size colour name           at most three of them

Digits of one row overlap vertically by at least two thirds of the smaller one's height; rows do not overlap. Large
digits are at least 1.4 times as high as small ones.
"""

from dataclasses import dataclass

import numpy as np

from resonnx_export.demo.digits import LABELS, Int64, UInt8, glyph
from resonnx_export.demo.paper import Float32, background

# Side of a scene and of the scene model's input picture, in pixels.
INPUT_SIZE = 96

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 25, 40),
    "orange": (240, 135, 0),
    "green": (20, 145, 50),
    "blue": (25, 70, 220),
    "purple": (140, 30, 165),
    "black": (25, 25, 25),
}
# Name -> least and greatest height in pixels.
SIZES: dict[str, tuple[int, int]] = {"large": (40, 45), "small": (24, 28)}

VOCABULARY = (
    *("<pad>", "<start>", "<end>", "<unk>"),
    *("a", "above", "left", "of", *SIZES, *COLOURS, *LABELS),
)
PAD, START, END, UNKNOWN = range(4)
# Words of the longest caption: a row of two above a row of one.
MAX_WORDS = 15

# Digits in each row, and the probabilities of these layouts.
_LAYOUTS = ((1,), (2,), (1, 1), (2, 1), (1, 2))
_LAYOUT_WEIGHTS = (0.15, 0.2, 0.2, 0.225, 0.225)
_EDGE = 1
_GAP = 2
_ROW_SLACK = 6
_MAX_ROW_HEIGHT = (INPUT_SIZE - 2 * _EDGE - _GAP) // 2


@dataclass(frozen=True)
class Placed:
    """One digit of a scene: its words and its box in pixels."""

    size_name: str
    colour: str
    label: str
    left: int
    top: int
    size: int

    def __str__(self) -> str:
        return f"a {self.size_name} {self.colour} {self.label}"


@dataclass(frozen=True)
class Scene:
    """A picture, uint8 [96,96,3], its caption, and its rows of digits."""

    image: UInt8
    caption: str
    rows: tuple[tuple[Placed, ...], ...]


def compose(rng: np.random.Generator, ink: UInt8, labels: Int64) -> Scene:
    """Draw a scene of digits picked from ink [N,s,s] and labels [N]; same rng state, same scene."""
    layout = _LAYOUTS[rng.choice(len(_LAYOUTS), p=_LAYOUT_WEIGHTS)]
    canvas = background(rng, INPUT_SIZE)
    rows = []
    tops, heights, sizes = _arrange_rows(rng, layout)
    for top, height, row_sizes in zip(tops, heights, sizes, strict=True):
        row = []
        lefts = _spread(rng, row_sizes)
        for left, size in zip(lefts, row_sizes, strict=True):
            pick = int(rng.integers(len(labels)))
            placed = Placed(
                size_name=next(name for name, (least, _) in SIZES.items() if size >= least),
                colour=str(rng.choice(tuple(COLOURS))),
                label=LABELS[labels[pick]],
                left=left,
                top=top + int(rng.integers(height - size + 1)),
                size=size,
            )
            _draw(rng, canvas, ink[pick], placed)
            row.append(placed)
        rows.append(tuple(row))
    return Scene(canvas.clip(0, 255).astype(np.uint8), describe(tuple(rows)), tuple(rows))


def describe(rows: tuple[tuple[Placed, ...], ...]) -> str:
    """Return the caption of rows of digits."""
    return " above ".join(" left of ".join(map(str, row)) for row in rows)


def encode_caption(caption: str) -> list[int]:
    """Return the token ids of a caption between <start> and <end>."""
    ids = {word: number for number, word in enumerate(VOCABULARY)}
    return [START, *(ids.get(word, UNKNOWN) for word in caption.split()), END]


def decode_caption(tokens: list[int]) -> str:
    """Return the words before <end>, without <start>."""
    body = tokens[: tokens.index(END)] if END in tokens else tokens
    return " ".join(VOCABULARY[token] for token in body if token != START)


def _arrange_rows(rng: np.random.Generator, layout: tuple[int, ...]) -> tuple[list[int], list[int], list[list[int]]]:
    """Return each row's top, its height and the sizes of its digits, in pixels."""
    ranges = tuple(SIZES.values())
    sizes = [[int(rng.integers(*ranges[rng.integers(2)], endpoint=True)) for _ in range(count)] for count in layout]
    heights = [min(max(row) + int(rng.integers(_ROW_SLACK + 1)), _MAX_ROW_HEIGHT) for row in sizes]
    return _spread(rng, heights), heights, sizes


def _spread(rng: np.random.Generator, lengths: list[int]) -> list[int]:
    """Place intervals in order along one side of the picture, with random gaps; return starts."""
    slack = INPUT_SIZE - 2 * _EDGE - sum(lengths) - _GAP * (len(lengths) - 1)
    starts = []
    used = _EDGE
    for length, gap in zip(lengths, np.sort(rng.integers(0, slack + 1, len(lengths))), strict=True):
        starts.append(used + int(gap))
        used += length + _GAP
    return starts


def _draw(rng: np.random.Generator, canvas: Float32, ink: UInt8, placed: Placed) -> None:
    """Draw one digit on the canvas, in place, in a shade of its colour."""
    colour = (COLOURS[placed.colour] + rng.uniform(-15, 15, 3)).astype(np.float32)
    alpha = glyph(ink, placed.size)[..., None] * np.float32(1 / 255)
    box = (slice(placed.top, placed.top + placed.size), slice(placed.left, placed.left + placed.size))
    canvas[box] += alpha * (colour - canvas[box])
