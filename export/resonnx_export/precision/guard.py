"""Limits the accuracy loss of int8: while a limit is exceeded, the most sensitive block returns to floating point.

A block's sensitivity is the noise in the predictions with that block alone quantised; the noises of blocks add up
almost independently.
"""

from dataclasses import dataclass

from resonnx_server.runtime.pictures.images import Pixels

from resonnx_export.errors import ParityFailed
from resonnx_export.precision.bounds import GREATEST_DEVIATION
from resonnx_export.precision.int8 import quantiser
from resonnx_export.precision.judges import Judge, Judgement
from resonnx_export.progress import Progress


@dataclass(frozen=True)
class Limits:
    """Limits of int8 on the held-back pictures.

    Attributes:
        min_agreement: Least share of predictions identical to float32's, in percent.
        max_accuracy_drop: Greatest loss of accuracy, in points, on labelled pictures.
    """

    min_agreement: float = 99.0
    max_accuracy_drop: float = 0.5

    def broken(self, judgement: Judgement) -> str | None:
        """Describe the limit that `judgement` exceeds; None if it is within all."""
        if judgement.agreement < self.min_agreement:
            return (
                f"{judgement.identical} of {judgement.pictures} {judgement.predictions.pictures.kind} have float32's "
                f"prediction, {judgement.agreement:.1f} % (at least {self.min_agreement:g} %)"
            )
        if judgement.accuracy_drop > self.max_accuracy_drop:
            return f"accuracy falls by {judgement.accuracy_drop:.2f} points (at most {self.max_accuracy_drop:g})"
        if judgement.deviation > GREATEST_DEVIATION:
            return f"outputs differ by {judgement.deviation:.2f} of max|reference| (at most {GREATEST_DEVIATION:g})"
        return None


@dataclass(frozen=True)
class Guarded:
    """A reduced graph within its limits, its judgement, and the blocks that stayed in floating point."""

    model: bytes
    judgement: Judgement
    in_float: tuple[str, ...]


def quantise_within(limits: Limits, model: bytes, pictures: Pixels, judge: Judge, progress: Progress) -> Guarded:
    """Quantise a traced float32 graph to int8, except for as many blocks as the limits require.

    The pictures, uint8 [N,H,W,3], are for calibration; the judge measures on the held-back pictures.

    Raises:
        ParityFailed: The limits are exceeded even with one block in int8.
    """
    with quantiser(model, pictures) as tool:
        progress("quantising")
        quantised = tool.quantise()
        judgement = judge(quantised)
        broken = limits.broken(judgement)
        if broken is None:
            return Guarded(quantised, judgement, ())
        progress(f"int8 exceeds a limit: {broken}")
        noises = {}
        for number, block in enumerate(tool.blocks, start=1):
            progress(f"measuring block {number} of {len(tool.blocks)}")
            noises[block] = judge(tool.quantise(set(tool.blocks) - {block})).noise
        *loudest, quietest = sorted(tool.blocks, key=noises.__getitem__, reverse=True)
        in_float: list[str] = []
        for block in loudest:
            in_float.append(block)
            progress(f"leaving {', '.join(in_float)} in floating point")
            quantised = tool.quantise(in_float)
            judgement = judge(quantised)
            broken = limits.broken(judgement)
            if broken is None:
                return Guarded(quantised, judgement, tuple(in_float))
    raise ParityFailed(f"int8 exceeds the limits even with {quietest} alone quantised: {broken}")
