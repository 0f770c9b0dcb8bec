"""What layouts are given and what they answer, and the decoding rule that the tutorials share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from resonnx_proto.v1 import manifest_pb2 as pb
from torch import Tensor

from resonnx_export.errors import BadInput
from resonnx_export.labels.labels import END, PAD, START, UNKNOWN
from resonnx_export.labels.vocabulary import Vocabulary
from resonnx_export.layouts.captioners.parts import Part
from resonnx_export.networks import CaptionNetwork, CheckpointMismatch


@dataclass(frozen=True)
class Request:
    """What the files hold, the vocabulary, and what was told of what weights do not tell.

    Attributes:
        caffe_resnet: Whether the ResNet is Caffe's; None if nothing was told.
        residual: Whether stacked cells that are modules of their own add their input to their output.
    """

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
        spec: As CaptionSource.spec.
        input: As CaptionSource.input.
        parts: The parts that were used.
        notes: What was taken for granted, for the person who exports.
    """

    layout: str
    network: CaptionNetwork
    state_dict: Mapping[str, Tensor]
    spec: pb.CaptionerSpec
    input: pb.ImageInput
    parts: Sequence[Part]
    notes: tuple[str, ...] = ()


def matrix_shape(tensors: Mapping[str, Tensor], key: str) -> tuple[int, int]:
    """Return a matrix's rows and columns.

    Raises:
        CheckpointMismatch: It is missing, no matrix, or empty.
    """
    if key not in tensors:
        raise CheckpointMismatch("not all that the layout has", missing=[key])
    shape = tuple(tensors[key].shape)
    if len(shape) != 2 or 0 in shape:
        raise CheckpointMismatch(f"{key} has the shape {list(shape)}, which is no matrix")
    return shape[0], shape[1]


def caption_spec(words: Sequence[str], *, max_tokens: int, feeds_start: bool, beam_width: int = 1) -> pb.CaptionerSpec:
    """Return the decoding rule of a vocabulary with <start> and <end>.

    Args:
        words: In the order of their ids.
        max_tokens: A caption's greatest length, the end token included.
        feeds_start: Whether <start> is fed first, or comes out first, as the answer to the picture.
        beam_width: What the source searches with if it is not told; 1 is greedy.

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
