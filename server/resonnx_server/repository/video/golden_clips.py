"""Compares the batches of each graph of a video classifier with the golden clips, always by the logits at their end."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from resonnx_server.runtime.model_files.golden_examples import Golden, Verdict, judge_logits
from resonnx_server.runtime.session import Session
from resonnx_server.runtime.video.clips import Float, Lengths, padded
from resonnx_server.runtime.video.graphs import FEATURES, LENGTHS, LOGITS, VideoGraphs
from resonnx_server.scheduling.session_pool import Tensors


@dataclass(frozen=True)
class GoldenClips:
    """The golden clips of a version whose graphs run on the chosen candidates.

    Attributes:
        graphs: The graphs.
        golden: Clips, and their logits.
        bound: Largest deviation of logits.
    """

    graphs: VideoGraphs
    golden: Golden
    bound: float

    def judge(self) -> Verdict:
        """Compare the logits of the clips as a whole and, if the model has a step, those after the last frames."""
        clips = self.golden.clips
        verdict = self._compare(self.graphs.run(clips))
        if verdict.passed and self.graphs.stepper is not None:
            return self._compare(self.graphs.run_stepwise(clips))
        return verdict

    @cached_property
    def features(self) -> Float:
        """Features [F,D] of all frames."""
        return self.graphs.features(self.golden.clips)

    @property
    def lengths(self) -> Lengths:
        """Frames of each clip."""
        assert self.golden.lengths is not None
        return self.golden.lengths

    @property
    def longest(self) -> int:
        """Frames of the longest clip."""
        return int(self.lengths.max())

    def frames(self, rows: int) -> Tensors:
        """Return a batch of `rows` frames for the encoder."""
        return {"image": np.resize(self.golden.images, (rows, *self.golden.images.shape[1:]))}

    def of_frames(self, rows: int, outputs: Tensors) -> Verdict:
        """Compare the encoder's outputs of `frames(rows)`, by the logits of the clips that they belong to."""
        verdict, count = None, len(self.features)
        for start in range(0, rows, count):
            found = outputs[FEATURES][start : start + count]
            features = np.concatenate([found, self.features[len(found) :]])
            verdict = self._compare(self.graphs.classify(padded(features, self.lengths), self.lengths))
            if not verdict.passed:
                break
        assert verdict is not None
        return verdict

    def clips(self, rows: int) -> Tensors:
        """Return a batch of `rows` clips for sequence.onnx, padded to the longest."""
        features = padded(self.features, self.lengths)
        return {
            FEATURES: np.resize(features, (rows, *features.shape[1:])),
            LENGTHS: np.resize(self.lengths, rows),
        }

    def of_clips(self, rows: int, outputs: Tensors) -> Verdict:
        """Compare the logits of `clips(rows)`."""
        return self._compare(outputs[LOGITS])

    def steps(self, rows: int) -> Tensors:
        """Return a batch of the first frames of `rows` clips for step.onnx."""
        first = self.clips(rows)[FEATURES][:, 0]
        return {FEATURES: first, **dict(zip(self.graphs.state_names, self.graphs.start(rows), strict=True))}

    def of_steps(self, session: Session, rows: int, outputs: Tensors) -> Verdict:
        """Compare the logits of `rows` clips after their last frames, of which `outputs` are after the first."""
        given, logits = self.clips(rows), [outputs[LOGITS]]
        for position in range(1, self.longest):
            states = {name: outputs[f"next_{name}"] for name in self.graphs.state_names}
            outputs = session.run({FEATURES: given[FEATURES][:, position], **states})
            logits.append(outputs[LOGITS])
        return self._compare(np.stack(logits)[given[LENGTHS] - 1, np.arange(rows)])

    def _compare(self, logits: Float) -> Verdict:
        """Compare the logits [N,K] of the clips, repeated as needed, on the scale of all golden logits."""
        reference, rows = self.golden.logits, len(logits)
        assert reference is not None
        expected = np.resize(reference, (max(rows, len(reference)), *reference.shape[1:]))
        return judge_logits(expected, np.concatenate([logits, expected[rows:]]), self.bound)
