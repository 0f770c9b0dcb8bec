"""Checks the sessions of a video classifier against the contract of its ONNX files, and runs them by tensor name."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.graphs import check_image_input, check_tensors
from resonnx_server.runtime.model_files.manifest import ENCODER_FILE
from resonnx_server.runtime.session import Array, Session
from resonnx_server.runtime.video.clips import Clips, Float, Lengths, padded
from resonnx_server.runtime.video.spec import SEQUENCE_FILE, STEP_FILE

FEATURES: Final = "features"
LENGTHS: Final = "lengths"
LOGITS: Final = "logits"
# Frames that are encoded at once.
_BATCH: Final = 16


class VideoGraphs:
    """encoder.onnx, sequence.onnx and step.onnx of one video classifier, wired by the names of their tensors.

    Args:
        sessions: By file: an encoder unless the features are given, a step if the manifest has states.
        manifest: The model's manifest.

    Raises:
        ModelRefused: The graphs do not fit the contract or each other.
    """

    def __init__(self, sessions: Mapping[str, Session], manifest: pb.Manifest) -> None:
        self.encoder, self.sequence = sessions.get(ENCODER_FILE), sessions[SEQUENCE_FILE]
        self.stepper = sessions.get(STEP_FILE)
        spec = manifest.video_classifier
        size, classes = spec.feature_size, len(spec.labels)
        self.feature_size = size
        if self.encoder is not None:
            check_image_input(self.encoder, manifest.input, ENCODER_FILE)
            check_tensors(self.encoder.outputs, {FEATURES: (size,)}, ENCODER_FILE)
        _check_inputs(self.sequence, {FEATURES: (np.float32, (None, size)), LENGTHS: (np.int64, ())}, SEQUENCE_FILE)
        check_tensors(self.sequence.outputs, {LOGITS: (classes,)}, SEQUENCE_FILE)
        self._states = {state.name: tuple(state.shape) for state in spec.states}
        if (self.stepper is not None) != bool(self._states):
            raise ModelRefused(f"video_classifier.states do not fit the presence of {STEP_FILE}")
        if self.stepper is not None:
            states = {name: (np.float32, shape) for name, shape in self._states.items()}
            _check_inputs(self.stepper, {FEATURES: (np.float32, (size,)), **states}, STEP_FILE)
            following = {f"next_{name}": shape for name, shape in self._states.items()}
            check_tensors(self.stepper.outputs, {LOGITS: (classes,), **following}, STEP_FILE)

    @property
    def state_names(self) -> list[str]:
        """The inputs of step.onnx that are handed on, in the manifest's order."""
        return list(self._states)

    def encode(self, frames: Array) -> Float:
        """Return the features float32 [B,D] of frames uint8 [B,H,W,3], of whatever clips."""
        assert self.encoder is not None
        return self.encoder.run({"image": frames}, [FEATURES])[FEATURES]

    def classify(self, features: Float, lengths: Lengths) -> Float:
        """Return the logits float32 [N,K] of clips' features float32 [N,T,D], of lengths int64 [N] from 1 to T."""
        return self.sequence.run({FEATURES: features, LENGTHS: lengths}, [LOGITS])[LOGITS]

    def start(self, rows: int) -> list[Float]:
        """Return the states of N clips before their first frames."""
        return [np.zeros((rows, *shape), np.float32) for shape in self._states.values()]

    def step(self, features: Float, state: Sequence[Float]) -> tuple[Float, list[Float]]:
        """Read one more frame of each of N clips, features float32 [N,D]: logits [N,K] so far, and the next states."""
        assert self.stepper is not None
        given = dict(zip(self._states, state, strict=True))
        following = [f"next_{name}" for name in self._states]
        found = self.stepper.run({FEATURES: features, **given}, [LOGITS, *following])
        return found[LOGITS], [found[name] for name in following]

    def features(self, clips: Clips) -> Float:
        """Return the features float32 [F,D] of all frames."""
        if self.encoder is None:
            return clips.frames
        parts = range(0, len(clips.frames), _BATCH)
        return np.concatenate([self.encode(clips.frames[start : start + _BATCH]) for start in parts])

    def run(self, clips: Clips) -> Float:
        """Return the logits float32 [N,K] of whole clips."""
        return self.classify(padded(self.features(clips), clips.lengths), clips.lengths)

    def run_stepwise(self, clips: Clips) -> Float:
        """Return the logits float32 [N,K] of clips after their last frames, read one after the other."""
        features, logits = padded(self.features(clips), clips.lengths), []
        state = self.start(len(clips))
        for position in range(features.shape[1]):
            after, state = self.step(features[:, position], state)
            logits.append(after)
        last: Float = np.stack(logits)[clips.lengths - 1, np.arange(len(clips))]
        return last


def _check_inputs(session: Session, expected: Mapping[str, tuple[type, tuple[int | None, ...]]], file: str) -> None:
    """Raise ModelRefused unless a graph takes these types and shapes of rows, by name."""
    found = {spec.name: spec for spec in session.inputs}
    if found.keys() != expected.keys():
        raise ModelRefused(f"{file} takes {sorted(found)}, the contract and the manifest give {sorted(expected)}")
    check_tensors(session.inputs, {name: shape for name, (_, shape) in expected.items()}, file)
    for name, (dtype, _) in expected.items():
        if found[name].dtype != dtype:
            raise ModelRefused(f"{file}: {name} is {found[name].dtype}, expected {np.dtype(dtype)}")
