"""The input and output of captioner layouts, and the tutorials' decoding rule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from resonnx_proto.v1 import manifest_pb2 as pb
from torch import Tensor

from resonnx_export.assumptions.assumption import Assumption
from resonnx_export.layouts.captioners.parts import Part
from resonnx_export.networks.protocol import ResNetCaptioner
from resonnx_export.special_tokens import SpecialTokens
from resonnx_export.vocabulary import Vocabulary


@dataclass(frozen=True)
class Request:
    """The files' parts, the vocabulary, and options as recognise_captioner's."""

    parts: Sequence[Part]
    vocabulary: Vocabulary
    caffe_resnet: bool | None
    residual: bool
    tokens: SpecialTokens
    assume: Mapping[str, str]

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
    network: ResNetCaptioner
    state_dict: Mapping[str, Tensor]
    spec: pb.CaptionerSpec
    input: pb.ImageInput
    parts: Sequence[Part]
    notes: tuple[str, ...] = ()
    assumptions: tuple[Assumption, ...] = ()


def caption_spec(
    vocabulary: Vocabulary, tokens: SpecialTokens, *, max_tokens: int, feeds_start: bool, beam_width: int = 1
) -> pb.CaptionerSpec:
    """Return the decoding rule of the vocabulary's start and end tokens.

    Args:
        vocabulary: Has the special tokens.
        tokens: Their names, where they are not found by themselves.
        max_tokens: A caption's greatest length, with the end token.
        feeds_start: Whether the start token is the first input; otherwise it is the first output, for the picture.
        beam_width: The source's default; 1 is greedy.

    Raises:
        BadInput: The start or the end token is not found.
    """
    words = vocabulary.words
    start = tokens.start(words)
    spec = pb.CaptionerSpec(
        vocabulary=words,
        end_id=tokens.end(words),
        stripped_ids=[start],
        max_tokens=max_tokens,
        beam_width=beam_width,
        length_normalization=pb.CaptionerSpec.LENGTH_NORMALIZATION_NONE,
        finished_beams=pb.CaptionerSpec.FINISHED_BEAMS_SHRINK,
    )
    if feeds_start:
        spec.start_id = start
    if (pad := tokens.pad(words)) is not None:
        spec.pad_id = pad
        spec.stripped_ids.append(pad)
    if (unknown := tokens.unknown(words)) is not None:
        spec.unknown_id = unknown
    return spec
