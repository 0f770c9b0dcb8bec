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


@dataclass(frozen=True, slots=True)
class VideoUpdate:
    """The classes of a stream's frames so far, best first.

    Attributes:
        frames_read: Number of the frames that the model has read, by its sampling.
        frame: Index of the last of them among all frames.
        is_final: The stream has ended: the classes are those of the whole clip.
        timing: Of the last frame; of the whole clip for models that answer at the end only.
    """

    model: str
    version: int
    predictions: tuple[Prediction, ...]
    frames_read: int
    frame: int
    is_final: bool
    timing: Timing
