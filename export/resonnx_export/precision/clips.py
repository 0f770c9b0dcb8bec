"""Replaces a video classifier's encoder.onnx by one in int8, judged by the labels of whole clips."""

from collections.abc import Mapping

import numpy as np
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.model_files.golden_examples import MAX_CLIP_FRAMES, Golden, judge_logits
from resonnx_server.runtime.model_files.manifest import ENCODER_FILE
from resonnx_server.runtime.video.clips import joined
from resonnx_server.runtime.video.graphs import VideoGraphs

from resonnx_export.errors import ParityFailed
from resonnx_export.networks.video import VideoNetwork
from resonnx_export.pictures.clip_folders import ClipCalibration
from resonnx_export.precision.guard import Limits, quantise_within
from resonnx_export.precision.judges import Judge, Judgement, judgement
from resonnx_export.precision.trunk import KeptInFloat, Quantised, Storage, reduce_file
from resonnx_export.progress import Progress
from resonnx_export.proof.clips import clip_logits, strips
from resonnx_export.proof.golden_examples import encoded_pictures
from resonnx_export.proof.parity import open_session
from resonnx_export.proof.predictions import ClassifierPredictions, Pictures, predictions_differ

# Golden clips, and the frames of each that are kept.
_GOLDEN_CLIPS, _GOLDEN_FRAMES = 4, MAX_CLIP_FRAMES // 4


class ClipJudge(Judge):
    """Judges encoder.onnx, traced from `network`, with unchanged graphs over time (`others`, by name)."""

    def __init__(
        self, network: VideoNetwork, manifest: pb.Manifest, others: Mapping[str, bytes], clips: ClipCalibration
    ) -> None:
        self._network, self._manifest, self._calibration = network, manifest, clips
        self._others = {name: open_session(content) for name, content in others.items()}
        held_back = clips.held_back
        self._logits = clip_logits(network, held_back, manifest.input)
        self.pictures = Pictures(strips(list(held_back)), "held-back clips", tuple(range(len(held_back))), clips.truths)

    def __call__(self, model: bytes) -> Judgement:
        """As Judge's."""
        found = self._graphs(model).run(self._calibration.held_back)
        changed = predictions_differ(self._logits, found, self._manifest.video_classifier.activation)
        right = None
        if (truths := self._calibration.truths) is not None:
            graph, network = (int((each.argmax(axis=1) == truths).sum()) for each in (found, self._logits))
            right = graph, network
        predictions = ClassifierPredictions(self.pictures, self._logits, found, changed)
        return judgement(predictions, self._logits, found, 0.0, right)

    def golden(self, model: bytes) -> tuple[Golden, float]:
        """As Judge's, of the first frames of held-back clips."""
        clips = joined([clip[:_GOLDEN_FRAMES] for clip in self._calibration.held_back[:_GOLDEN_CLIPS]])
        logits = clip_logits(self._network, clips, self._manifest.input)
        encoded = encoded_pictures(self._manifest.input)
        golden = Golden(clips.frames, logits=logits, lengths=clips.lengths, encoded=encoded)
        return golden, judge_logits(logits, self._graphs(model).run(clips), 1.0).deviation

    def _graphs(self, model: bytes) -> VideoGraphs:
        try:
            return VideoGraphs({ENCODER_FILE: open_session(model), **self._others}, self._manifest)
        except ModelRefused as error:
            raise ParityFailed(f"the reduced graph breaks the contract: {error}") from None


def quantise_frames(
    files: Mapping[str, bytes],
    network: VideoNetwork,
    manifest: pb.Manifest,
    clips: ClipCalibration,
    limits: Limits,
    progress: Progress,
    *,
    only_if_faster: bool = False,
) -> Quantised | KeptInFloat:
    """Store encoder.onnx in int8, and write precision, bound and agreement into the manifest.

    Args:
        files: The version's ONNX files in float32, checked.
        network: The network that they were made from.
        manifest: Is changed.
        clips: Typical clips.
        limits: Of the loss on the held-back clips, by their labels.
        progress: Called as each stage begins.
        only_if_faster: Keep float32 where that is as fast on this CPU, or the limits are exceeded.

    Raises:
        ParityFailed: The result would differ too much from float32.
    """
    others = {name: content for name, content in files.items() if name != ENCODER_FILE}
    judge = ClipJudge(network, manifest, others, clips)
    storage = Storage(
        pb.PRECISION_INT8,
        lambda recipe: judge.pictures,
        lambda model, judge, progress: quantise_within(limits, model, clips.fit, judge, progress),
        only_if_faster,
    )
    frames = np.asarray(clips.held_back.frames)
    return reduce_file(ENCODER_FILE, files[ENCODER_FILE], judge, manifest, storage, lambda _: 0.0, progress, frames)
