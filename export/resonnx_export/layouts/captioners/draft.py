"""The input and output of captioner layouts, and the tutorials' decoding rule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from resonnx_proto.v1 import manifest_pb2 as pb
from torch import Tensor

from resonnx_export.assumptions.assumption import Assumption
from resonnx_export.errors import BadInput
from resonnx_export.labels import END, PAD, START, UNKNOWN, Vocabulary
from resonnx_export.layouts.captioners.parts import Part
from resonnx_export.networks.protocol import CaptionNetwork


@dataclass(frozen=True)
class Request:
    """The files' parts, the vocabulary, and options as recognise_captioner's."""

    parts: Sequence[Part]
    vocabulary: Vocabulary
    caffe_resnet: bool | None
    residual: bool

    def part_with(self, *keys: str) -> Part | None:
        """Return the first part that has all of these keys."""
        return next((part for part in self.parts if all(key in part.tensors for key in keys)), None)


@dataclass(frozen=True)
class Draft:
    """A captioner before its weights are loaded.

    Attributes:
        layout: The layout's name.
        network: Of the right shape.
        state_dict: The weights under the network's own keys.
        spec, input: As CaptionSource's.
        parts: The parts that were used.
        notes: Lines for the user.
        assumptions: Properties that the files do not record.
    """

    layout: str
    network: CaptionNetwork
    state_dict: Mapping[str, Tensor]
    spec: pb.CaptionerSpec
    input: pb.ImageInput
    parts: Sequence[Part]
    notes: tuple[str, ...] = ()
    assumptions: tuple[Assumption, ...] = ()


def caption_spec(words: Sequence[str], *, max_tokens: int, feeds_start: bool, beam_width: int = 1) -> pb.CaptionerSpec:
    """Return the decoding rule of a vocabulary with <start> and <end>.

    Args:
        words: In the order of their ids.
        max_tokens: A caption's greatest length, with the end token.
        feeds_start: Whether <start> is the first input; otherwise it is the first output, for the picture.
        beam_width: The source's default; 1 is greedy.

    Raises:
        BadInput: <start> or <end> is missing.
    """
    if missing := [word for word in (START, END) if word not in words]:
        raise BadInput(f"the vocabulary lacks {' and '.join(missing)}")
    start = words.index(START)
    spec = pb.CaptionerSpec(
        vocabulary=words,
        end_id=words.index(END),
        stripped_ids=[start],
        max_tokens=max_tokens,
        beam_width=beam_width,
        length_normalization=pb.CaptionerSpec.LENGTH_NORMALIZATION_NONE,
        finished_beams=pb.CaptionerSpec.FINISHED_BEAMS_SHRINK,
    )
    if feeds_start:
        spec.start_id = start
    if PAD in words:
        spec.pad_id = words.index(PAD)
        spec.stripped_ids.append(spec.pad_id)
    if UNKNOWN in words:
        spec.unknown_id = words.index(UNKNOWN)
    return spec
