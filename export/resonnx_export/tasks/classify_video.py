"""The task "classify_video"."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.model_files.golden_examples import Golden, Verdict, judge_logits
from resonnx_server.runtime.model_files.manifest import ENCODER_FILE, onnx_files
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.video.graphs import VideoGraphs
from resonnx_server.runtime.video.spec import SEQUENCE_FILE

from resonnx_export.answers.judging import judge_classes
from resonnx_export.checkpoints.files import SourceFile
from resonnx_export.layouts.recognised import Network
from resonnx_export.layouts.video import recognise_video
from resonnx_export.networks.video import VideoNetwork
from resonnx_export.precision.bounds import quantised_line
from resonnx_export.proof.clips import LONGEST, clip_logits, prove_video
from resonnx_export.proof.parity import FP32_BOUND, open_session
from resonnx_export.proof.timing import Run
from resonnx_export.tasks.classify import class_rows, logits_summary
from resonnx_export.tasks.task import Files, Task
from resonnx_export.wording import names

_Sampling = pb.VideoClassifierSpec.Sampling


def _recognise(manifest: pb.Manifest, checkpoint: Sequence[Path]) -> tuple[Network, Sequence[SourceFile]]:
    assume = {each.name: each.value for each in manifest.assumptions if each.option.startswith("--assume ")}
    source = recognise_video(checkpoint, assume=assume)
    return source.recognised.network, source.files


def _predicts(network: VideoNetwork, manifest: pb.Manifest, golden: Golden) -> bool:
    expected = clip_logits(network, golden.clips, manifest.input)
    return golden.logits is not None and judge_logits(expected, golden.logits, FP32_BOUND).passed


def _compare_quantised(files: Files, network: VideoNetwork, manifest: pb.Manifest, golden: Golden) -> Iterator[str]:
    graphs = VideoGraphs({name: open_session(files[name]) for name in onnx_files(manifest)}, manifest)
    expected, found = clip_logits(network, golden.clips, manifest.input), graphs.run(golden.clips)
    for bound in manifest.precisions:
        if bound.file in manifest.stored:
            verdict = judge_logits(expected, found, bound.max_deviation)
            yield quantised_line(bound, verdict, len(golden.clips), "every clear top class the same")


def _judge(graphs: VideoGraphs, manifest: pb.Manifest, golden: Golden, bound: float) -> Verdict:
    """Judge whole clips, and clips frame by frame where there is a step; the worse verdict counts."""
    if golden.logits is None or golden.lengths is None:
        raise ModelRefused("golden.npz holds no logits of clips")
    found = [graphs.run(golden.clips)]
    if graphs.stepper is not None:
        found.append(graphs.run_stepwise(golden.clips))
    verdicts = [judge_logits(golden.logits, logits, bound) for logits in found]
    return max(verdicts, key=lambda verdict: (not verdict.passed, verdict.deviation))


def _batch_run(graphs: VideoGraphs, file: str, manifest: pb.Manifest, pictures: Pixels) -> Run:
    rows, size = len(pictures), manifest.video_classifier.feature_size
    if file == ENCODER_FILE:
        return lambda: graphs.encode(pictures)
    if file == SEQUENCE_FILE:
        features, lengths = np.zeros((rows, LONGEST, size), np.float32), np.full(rows, LONGEST, np.int64)
        return lambda: graphs.classify(features, lengths)
    frame, state = np.zeros((rows, size), np.float32), graphs.start(rows)
    return lambda: graphs.step(frame, state)


def _facts(manifest: pb.Manifest) -> Iterator[tuple[str, str]]:
    spec = manifest.video_classifier
    yield "Classes", names("classes", list(spec.labels))
    yield (
        "Frames",
        f"{sampling_text(spec.sampling)}; at most {spec.max_frames} of a clip, {spec.feature_size} features each",
    )
    backwards = "whole clips only, as the network reads them backwards as well"
    yield "Live video", f"frame by frame, with {len(spec.states)} states" if spec.states else backwards


def sampling_text(sampling: _Sampling) -> str:
    """Return which frames of a video are read, in words."""
    return {
        _Sampling.RULE_EVERY: f"every {sampling.n}th frame",
        _Sampling.RULE_UNIFORM: f"{sampling.n} frames at equal distances",
        _Sampling.RULE_TIME: f"{sampling.frames_per_second:g} frames a second",
    }.get(sampling.rule, "all frames")


CLASSIFY_VIDEO: Final = Task(
    name="classify_video",
    model="video_classifier",
    kind=pb.TASK_VIDEO_CLASSIFIER,
    spec=pb.VideoClassifierSpec,
    values="Logits",
    outputs=("logits",),
    recognise=_recognise,
    prove=prove_video,
    predicts=_predicts,
    compare_quantised=_compare_quantised,
    open=lambda session, manifest: VideoGraphs({file: session(file) for file in onnx_files(manifest)}, manifest),
    judge=_judge,
    batch_run=_batch_run,
    summary=logits_summary,
    facts=_facts,
    prediction=lambda predictions, manifest, row: class_rows(predictions, manifest.video_classifier, row),
    answer=lambda graphs, manifest, clips: graphs.run(clips),
    judge_answers=lambda answers, logits, manifest, bound: judge_classes(answers, logits, least_bound=bound),
)
