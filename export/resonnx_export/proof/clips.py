"""Compares a video classifier's graphs with PyTorch: frames, whole clips, padded clips, and clips frame by frame.

PyTorch reads each clip on its own frames, without padding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.graphs import IMAGE
from resonnx_server.runtime.model_files.golden_examples import Golden
from resonnx_server.runtime.model_files.manifest import ENCODER_FILE, onnx_files
from resonnx_server.runtime.video.clips import Clips, Lengths, padded
from resonnx_server.runtime.video.graphs import FEATURES, LENGTHS, LOGITS, VideoGraphs
from resonnx_server.runtime.video.spec import SEQUENCE_FILE, STEP_FILE
from torch import Tensor

from resonnx_export.errors import ParityFailed
from resonnx_export.networks.video import VideoNetwork
from resonnx_export.pictures.synthetic import check_pictures
from resonnx_export.progress import Progress, silent
from resonnx_export.proof.comparisons import Proof
from resonnx_export.proof.golden_examples import encoded_pictures
from resonnx_export.proof.parity import BATCH_SIZES, Case, compare, open_session, prove_graph, reject_damaged
from resonnx_export.proof.predictions import ClassifierPredictions, Comparison, Pictures, predictions_differ
from resonnx_export.proof.reference import Float, normalise, normalise_grey

# Of max|logit|: what padding, and reading frame by frame, may change.
SAME: Final = 1e-6
# Of the clips that are compared; one has this many frames, one a single frame.
LONGEST: Final = 12
_BATCH: Final = 8
_SEED: Final = 4000
# Frames of the golden clips.
_GOLDEN: Final = (1, 2, 5, 8)
# Frames of a clip that stand for it on the page, side by side, and their height in pixels.
_SHOWN: Final = 6
_SHOWN_HEIGHT: Final = 96


@torch.no_grad()
def encode_frames(network: VideoNetwork, frames: np.ndarray, recipe: pb.ImageInput) -> Float:
    """Return PyTorch's features float32 [F,D] of frames uint8 [F,H,W,3]; given features are returned as they are."""
    if not network.in_channels:
        return np.asarray(frames, np.float32)
    prepare = normalise_grey if network.in_channels == 1 else normalise
    parts = (frames[start : start + _BATCH] for start in range(0, len(frames), _BATCH))
    return np.concatenate([network.encode(prepare(part, recipe)).numpy() for part in parts])


@torch.no_grad()
def classify_clips(network: VideoNetwork, features: Float, lengths: Lengths) -> Float:
    """Return PyTorch's logits float32 [N,K] of features [N,T,D] of clips."""
    logits: Tensor = network.classify(torch.from_numpy(features), torch.from_numpy(lengths))
    found: Float = logits.numpy()
    return found


def clip_logits(network: VideoNetwork, clips: Clips, recipe: pb.ImageInput) -> Float:
    """Return PyTorch's logits float32 [N,K] of clips of frames or of given features."""
    return classify_clips(network, padded(encode_frames(network, clips.frames, recipe), clips.lengths), clips.lengths)


def check_frames(manifest: pb.Manifest, count: int, seed: int, samples: Sequence[Image.Image] = ()) -> np.ndarray:
    """Make frames to compare on: pictures uint8 [count,H,W,3], or features float32 [count,D] for given ones."""
    if manifest.HasField("input"):
        return check_pictures(manifest.input, count, seed, samples)
    size = manifest.video_classifier.feature_size
    return np.random.default_rng(seed).standard_normal((count, size), np.float32)


@dataclass(frozen=True)
class ClipBatch:
    """Clips that are compared at once.

    Attributes:
        frames: Rows of the check frames, [N,T]; beyond a clip's length, of frames that it does not have.
        lengths: int64 [N].
    """

    frames: np.ndarray
    lengths: Lengths

    @classmethod
    def of(cls, count: int, available: int) -> "ClipBatch":
        """Return clips of 1 to LONGEST of the available frames; same arguments, same clips."""
        rng = np.random.default_rng(_SEED + count)
        lengths = rng.integers(1, LONGEST + 1, count)
        lengths[:1], lengths[-1:] = 1, LONGEST
        return cls(rng.integers(0, available, (count, LONGEST)), lengths)

    def clips(self, frames: np.ndarray) -> Clips:
        """Return the clips of the check frames."""
        rows = [row[:length] for row, length in zip(self.frames, self.lengths, strict=True)]
        return Clips(frames[np.concatenate(rows)], self.lengths)


def prove_video(
    files: Mapping[str, bytes],
    network: VideoNetwork,
    manifest: pb.Manifest,
    samples: Sequence[Image.Image] = (),
    progress: Progress = silent,
) -> Proof:
    """Check encoder.onnx, sequence.onnx and step.onnx, separately and together.

    `samples` are typical frames. Raises ParityFailed if an output differs, or the graphs do not fit the manifest.
    """
    try:
        graphs = VideoGraphs({name: open_session(files[name]) for name in onnx_files(manifest)}, manifest)
    except ModelRefused as error:
        raise ParityFailed(f"the exported graphs break the contract: {error}") from None
    checks: list[pb.ParityCheck] = []
    progress("PyTorch's features of frames")
    parts = [check_frames(manifest, size, size, samples) for size in BATCH_SIZES]
    encoded = [encode_frames(network, part, manifest.input) for part in parts]
    progress("ONNX Runtime's encoder")
    if manifest.HasField("input"):
        cases = [
            Case(f"batch {len(part)}", {IMAGE: part}, {FEATURES: each})
            for part, each in zip(parts, encoded, strict=True)
        ]
        checks += prove_graph(ENCODER_FILE, files[ENCODER_FILE], cases, keep=False)[0]
    frames, features = np.concatenate(parts), np.concatenate(encoded)
    batches = [ClipBatch.of(size, len(frames)) for size in BATCH_SIZES]
    progress("PyTorch's logits of clips")
    cases = [_sequence_case(network, features, batch) for batch in batches]
    progress("ONNX Runtime's logits of clips")
    checks += prove_graph(SEQUENCE_FILE, files[SEQUENCE_FILE], cases, keep=False)[0]
    checks.append(check_padding(graphs, cases[-1]))
    progress("clips frame by frame")
    if STEP_FILE in files:
        checks += prove_steps(files[STEP_FILE], graphs, network, cases[-2])
    found = []
    for batch, case in zip(batches, cases, strict=True):
        found.append(graphs.run(batch.clips(frames)))
        name = f"clips, batch {len(batch.lengths)}: {LOGITS}"
        checks.append(compare(name, case.expected[LOGITS], found[-1]))
    expected, logits = np.concatenate([case.expected[LOGITS] for case in cases]), np.concatenate(found)
    predictions = ClassifierPredictions(
        Pictures(strips([clip for batch in batches for clip in batch.clips(frames)]), "clips of check pictures"),
        expected,
        logits,
        predictions_differ(expected, logits, manifest.video_classifier.activation),
    )
    bound = max(check.bound for check in checks if check.name.startswith("clips"))
    return Proof(pb.ParityReport(checks=checks, damaged_copy_rejected=True), Comparison(predictions, bound))


def video_golden(network: VideoNetwork, manifest: pb.Manifest, samples: Sequence[Image.Image]) -> Golden:
    """Store some clips with their logits, and the picture files."""
    lengths = np.array(_GOLDEN, np.int64)
    frames = check_frames(manifest, int(lengths.sum()), _SEED, samples)
    logits = clip_logits(network, Clips(frames, lengths), manifest.input)
    if not manifest.HasField("input"):
        return Golden(np.zeros((0, 0, 0, 3), np.uint8), logits=logits, lengths=lengths, features=frames)
    return Golden(frames, logits=logits, lengths=lengths, encoded=encoded_pictures(manifest.input))


def _sequence_case(network: VideoNetwork, features: Float, batch: ClipBatch) -> Case:
    """Return clips whose padding is not zeros but other frames."""
    given = features[batch.frames]
    expected = classify_clips(network, given, batch.lengths)
    name = f"{len(batch.lengths)} clips of 1 to {LONGEST} frames"
    return Case(name, {FEATURES: given, LENGTHS: batch.lengths}, {LOGITS: expected})


def check_padding(graphs: VideoGraphs, case: Case) -> pb.ParityCheck:
    """Check that padding changes nothing: each clip alone, padded to LONGEST and cut to its length.

    Raises ParityFailed.
    """
    given, lengths = case.feeds[FEATURES], case.feeds[LENGTHS]
    rows = [(given[i : i + 1], lengths[i : i + 1]) for i in range(len(lengths))]
    whole = np.concatenate([graphs.classify(clip, length) for clip, length in rows])
    cut = np.concatenate([graphs.classify(clip[:, : int(length[0])], length) for clip, length in rows])
    return compare(f"{SEQUENCE_FILE}, padded against cut clips: {LOGITS}", cut, whole, rtol=SAME)


def prove_steps(step: bytes, graphs: VideoGraphs, network: VideoNetwork, case: Case) -> list[pb.ParityCheck]:
    """Check step.onnx after every frame of clips: against PyTorch, and against sequence.onnx on the frames so far.

    Raises ParityFailed.
    """
    given, lengths = case.feeds[FEATURES], case.feeds[LENGTHS]
    state, stepped, whole, expected = graphs.start(len(given)), [], [], []
    for position in range(given.shape[1]):
        logits, state = graphs.step(given[:, position], state)
        so_far = np.full_like(lengths, position + 1)
        # Cut, so that both graphs have read the same.
        whole.append(graphs.classify(given[:, : position + 1], so_far))
        expected.append(classify_clips(network, given, so_far))
        stepped.append(logits)
    title = f"{STEP_FILE}, {len(given)} clips after each of {given.shape[1]} frames"
    found, ours, theirs = (np.concatenate(each) for each in (stepped, whole, expected))
    first = {FEATURES: given[:, 0], **dict(zip(graphs.state_names, graphs.start(len(given)), strict=True))}
    reject_damaged(STEP_FILE, step, Case("first frame", first, {LOGITS: expected[0]}))
    return [
        compare(f"{title}: {LOGITS}", theirs, found),
        compare(f"{title}, against {SEQUENCE_FILE}: {LOGITS}", ours, found, rtol=SAME),
    ]


def strips(clips: Sequence[np.ndarray]) -> np.ndarray:
    """Return a picture of each clip, uint8 [N,h,w,3], for the page: some of its frames side by side.

    Of features [T,D], each row is a frame, brighter for greater numbers.
    """
    drawn = [_strip(clip) if clip.ndim == 4 else _rows(clip) for clip in clips]
    height, width = (max(picture.shape[axis] for picture in drawn) for axis in (0, 1))
    whole = np.zeros((len(drawn), height, width, 3), np.uint8)
    for row, picture in enumerate(drawn):
        whole[row, : picture.shape[0], : picture.shape[1]] = picture
    return whole


def _strip(clip: np.ndarray) -> np.ndarray:
    chosen = clip[np.linspace(0, len(clip) - 1, min(len(clip), _SHOWN)).round().astype(int)]
    height, width = chosen.shape[1:3]
    if height > _SHOWN_HEIGHT:
        size = (max(1, width * _SHOWN_HEIGHT // height), _SHOWN_HEIGHT)
        chosen = np.stack([np.asarray(Image.fromarray(frame).resize(size)) for frame in chosen])
    return np.concatenate(list(chosen), axis=1)


def _rows(features: np.ndarray) -> np.ndarray:
    scale = max(float(np.abs(features).max()), float(np.finfo(np.float32).tiny))
    grey = (127.5 + 127.5 * features / scale).round().astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)
