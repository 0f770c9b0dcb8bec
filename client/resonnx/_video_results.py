"""Results of video classifiers, as immutable values."""

from dataclasses import dataclass

from resonnx._results import Prediction, Timing


@dataclass(frozen=True, slots=True)
class VideoClassification:
    """A clip's classes, best first.

    Attributes:
        frames_read: Indices of the frames that the model has read, by its sampling; of a file, among all its frames.
        timing: `queue_s` is the wait for the first batch of frames, `batch_size` the frames of the last one.
    """

    model: str
    version: int
    predictions: tuple[Prediction, ...]
    frames_read: tuple[int, ...]
    timing: Timing
