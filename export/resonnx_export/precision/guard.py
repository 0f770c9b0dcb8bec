"""Guards an int8 graph's accuracy: where a bound is missed, sensitive blocks go back to floating point, one by one.

A block's sensitivity is the noise in the answers when it alone is quantised: the noises of blocks add up nearly
independently, so without the loudest the rest is quietest.
"""

from dataclasses import dataclass

from resonnx_server.runtime.pictures.images import Pixels

from resonnx_export.errors import ParityFailed
from resonnx_export.precision.bounds import GREATEST_DEVIATION
from resonnx_export.precision.int8 import quantiser
from resonnx_export.progress import Progress
from resonnx_export.proof.agreement import Judge, Judgement


@dataclass(frozen=True)
class Limits:
    """What int8 may cost on the held-back pictures.

    Attributes:
        min_agreement: Least share of answers identical to float32's, in percent.
        max_accuracy_drop: Greatest loss of accuracy, in points, where the truth is known.
    """

    min_agreement: float = 99.0
    max_accuracy_drop: float = 0.5

    def broken(self, judgement: Judgement) -> str | None:
        """Return which limit `judgement` breaks, in words; None if none."""
        if judgement.agreement < self.min_agreement:
            return (
                f"{judgement.identical} of {judgement.pictures} held-back pictures have float32's answer, "
                f"{judgement.agreement:.1f} % (at least {self.min_agreement:g} %)"
            )
        if judgement.accuracy_drop > self.max_accuracy_drop:
            return f"accuracy falls by {judgement.accuracy_drop:.2f} points (at most {self.max_accuracy_drop:g})"
        if judgement.deviation > GREATEST_DEVIATION:
            return f"answers lie {judgement.deviation:.2f} of max|reference| apart (at most {GREATEST_DEVIATION:g})"
        return None


@dataclass(frozen=True)
class Guarded:
    """An int8 graph within its limits, how it was judged, and the blocks that stayed in floating point."""

    model: bytes
    judgement: Judgement
    in_float: tuple[str, ...]


def quantise_within(limits: Limits, model: bytes, pictures: Pixels, judge: Judge, tell: Progress) -> Guarded:
    """Quantise a traced graph as far as the limits allow.

    Args:
        limits: Of the result.
        model: The ONNX file in float32.
        pictures: uint8 [N,H,W,3], for calibration.
        judge: Holds the pictures that the limits are measured on.
        tell: Hears what is being done.

    Raises:
        ParityFailed: The limits are broken even with one block in int8.
    """
    with quantiser(model, pictures) as tool:
        tell("quantising")
        quantised = tool.quantise()
        judgement = judge(quantised)
        broken = limits.broken(judgement)
        if broken is None:
            return Guarded(quantised, judgement, ())
        tell(f"int8 answers too differently: {broken}")
        noises = {}
        for number, block in enumerate(tool.blocks, start=1):
            tell(f"block {number} of {len(tool.blocks)} alone")
            noises[block] = judge(tool.quantise(set(tool.blocks) - {block})).noise
        *loudest, quietest = sorted(tool.blocks, key=noises.__getitem__, reverse=True)
        in_float: list[str] = []
        for block in loudest:
            in_float.append(block)
            tell(f"leaving {', '.join(in_float)} in floating point")
            quantised = tool.quantise(in_float)
            judgement = judge(quantised)
            broken = limits.broken(judgement)
            if broken is None:
                return Guarded(quantised, judgement, tuple(in_float))
    raise ParityFailed(f"int8 breaks the limits even with {quietest} alone quantised: {broken}")
