"""The subject of a comparison with answers: a network, its recipe, and the other readings of the same file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Final

import numpy as np
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.video.clips import Clips
from torch import nn

from resonnx_export.answers.captions import judge_words, network_captions
from resonnx_export.answers.judging import Judged, judge_classes
from resonnx_export.answers.recorded import Answers
from resonnx_export.assumptions.assumption import Assumption
from resonnx_export.errors import BadInput
from resonnx_export.networks.protocol import CaptionNetwork
from resonnx_export.networks.resnet import ClassifierNetwork
from resonnx_export.networks.video import VideoNetwork
from resonnx_export.proof import reference
from resonnx_export.proof.clips import clip_logits
from resonnx_export.proof.reference import Float

# The outputs of a network for pictures uint8 [N,H,W,3], preprocessed by a recipe: logits [N,K], or N captions.
Predict = Callable[[Any, pb.ImageInput], Any]


# Pictures that a network takes at once.
_BATCH: Final = 8


@dataclass(frozen=True)
class Subject:
    """A network as it was read.

    Attributes:
        predict: Its outputs.
        recipe: Its preprocessing.
        judge: Compares outputs with answers.
        assumptions: What the file does not record about the network.
        rebuild: Returns the outputs of the network with other values of its assumptions, by name, or raises BadInput;
            None if the network is the user's own.
    """

    predict: Predict
    recipe: pb.ImageInput
    judge: Callable[[Answers, Any], Judged]
    assumptions: Sequence[Assumption] = ()
    rebuild: Callable[[Mapping[str, str]], Predict] | None = None


def in_batches(predict: Callable[[Any], Any], pixels: Any) -> Any:
    """Return the outputs for pictures uint8 [N,H,W,3], or Clips: an array of rows, or a list, as `predict` returns."""
    parts = [predict(pixels[start : start + _BATCH]) for start in range(0, len(pixels), _BATCH)]
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else list(chain.from_iterable(parts))


def classifier_subject(
    network: nn.Module,
    recipe: pb.ImageInput,
    assumptions: Sequence[Assumption] = (),
    rebuild: Callable[[Mapping[str, str]], nn.Module] | None = None,
) -> Subject:
    """Return a classifier, compared by its logits; arguments as Subject's, with networks instead of their outputs."""

    def predict(network: nn.Module, pixels: Pixels, recipe: pb.ImageInput) -> Float:
        assert isinstance(network, ClassifierNetwork)
        logits: Float = in_batches(lambda batch: reference.classify(network, batch, recipe).logits, pixels)
        return logits

    return Subject(
        partial(predict, network),
        recipe,
        judge_classes,
        assumptions,
        None if rebuild is None else lambda values: partial(predict, rebuild(values)),
    )


def video_subject(
    network: VideoNetwork,
    recipe: pb.ImageInput,
    assumptions: Sequence[Assumption] = (),
    rebuild: Callable[[Mapping[str, str]], VideoNetwork] | None = None,
) -> Subject:
    """Return a video classifier, compared by its logits for Clips; otherwise as classifier_subject."""

    def predict(network: VideoNetwork, clips: Clips, recipe: pb.ImageInput) -> Float:
        if not isinstance(clips, Clips):
            raise BadInput("a video classifier is compared by clips: frames uint8 [N,T,H,W,3], lengths [N] and logits")
        if network.in_channels == 0 and clips.frames.shape[1:] != (network.feature_size,):
            raise BadInput(
                f"the answers' features are {list(clips.frames.shape[1:])}, the network's [{network.feature_size}]"
            )
        if network.in_channels and clips.frames.ndim != 4:
            raise BadInput("the network reads frames, and the answers hold features")
        logits: Float = in_batches(lambda batch: clip_logits(network, batch, recipe), clips)
        return logits

    return Subject(
        partial(predict, network),
        recipe,
        judge_classes,
        assumptions,
        None if rebuild is None else lambda values: partial(predict, rebuild(values)),
    )


def captioner_subject(
    network: CaptionNetwork,
    recipe: pb.ImageInput,
    spec: pb.CaptionerSpec,
    assumptions: Sequence[Assumption] = (),
    rebuild: Callable[[Mapping[str, str]], tuple[CaptionNetwork, pb.CaptionerSpec]] | None = None,
) -> Subject:
    """Return a captioner, compared by its greedy captions; `rebuild` returns a network with its decoding rule."""

    def predict(network: CaptionNetwork, spec: pb.CaptionerSpec, pixels: Pixels, recipe: pb.ImageInput) -> Any:
        return in_batches(lambda batch: network_captions(network, batch, recipe, spec), pixels)

    return Subject(
        partial(predict, network, spec),
        recipe,
        lambda answers, captions: judge_words(answers, captions, spec),
        assumptions,
        None if rebuild is None else lambda values: partial(predict, *rebuild(values)),
    )
