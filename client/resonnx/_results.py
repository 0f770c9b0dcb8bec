"""Results of calls, as immutable values. Times are in seconds, probabilities 0 to 1, logarithms natural."""

from dataclasses import dataclass
from enum import StrEnum

from resonnx_proto.v1 import manifest_pb2


@dataclass(frozen=True, slots=True)
class Timing:
    """A request's time on the server.

    Attributes:
        decode_s: Decoding and resizing of the picture.
        queue_s: Waiting for a batch.
        compute_s: Running the model.
        batch_size: Pictures in the batch; of a caption, in the encoder's batch.
    """

    decode_s: float
    queue_s: float
    compute_s: float
    batch_size: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """A class: its label, its index in the model's labels, and its probability.

    Attributes:
        heatmap: If requested, what each part of the picture adds to the class's logit, row by row from the top left.
        heatmap_bias: The heatmap's mean plus this is the logit.
    """

    label: str
    index: int
    score: float
    heatmap: tuple[float, ...] = ()
    heatmap_bias: float = 0.0


@dataclass(frozen=True, slots=True)
class Classification:
    """A picture's classes, best first.

    Attributes:
        features: The input of the model's head, None unless requested.
        heatmap_grid: Rows and columns of the heatmaps, (0, 0) unless requested.
        heatmap_area: The part of the picture that the model has seen and the heatmaps cover: left, top, right and
            bottom in shares of its width and height; of the upright picture, if the model takes pictures upright.
    """

    model: str
    version: int
    predictions: tuple[Prediction, ...]
    features: tuple[float, ...] | None
    timing: Timing
    heatmap_grid: tuple[int, int] = (0, 0)
    heatmap_area: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a caption.

    Attributes:
        text: The word.
        token: Index in the model's vocabulary.
        log_prob: Natural logarithm of its probability.
        attention: If requested, weights over the picture's grid, row by row from the top left.
    """

    text: str
    token: int
    log_prob: float
    attention: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption.

    Attributes:
        text: The sentence.
        log_prob: Sum over all tokens, including the end token.
        words: The words in order.
        score: Captions are ranked by it: `log_prob`, normalised by length if so requested.
    """

    text: str
    log_prob: float
    words: tuple[Word, ...]
    score: float


@dataclass(frozen=True, slots=True)
class CaptionResult:
    """A picture's captions, best first.

    `seed` is the seed of the sampling, None without sampling. `attention_grid` is the rows and columns of the words'
    attention, (0, 0) without attention.
    """

    model: str
    version: int
    captions: tuple[Caption, ...]
    timing: Timing
    seed: int | None
    attention_grid: tuple[int, int]


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A model as the server lists it.

    `task` is "classifier", "captioner", "video_classifier" or "tensors"; `state` is "loading", "ready" or "refused",
    with its reason in `reason`. A value that this version of the client cannot name is a number. `labels` are those of
    this version; `is_default` says that calls without a version are answered by it.
    """

    name: str
    version: int
    task: str
    state: str
    reason: str
    labels: tuple[str, ...] = ()
    is_default: bool = False


@dataclass(frozen=True, slots=True)
class RepositoryModel:
    """A version in the server's model repository.

    Attributes:
        name: The model's name.
        version: Its number as text; empty or "0" if its folder has no version.
        state: "ready", "loading" or "unavailable", or another state that the server names.
        reason: Why it is in this state; may be empty.
    """

    name: str
    version: str
    state: str
    reason: str


class Health(StrEnum):
    """Whether a server or a model serves; UNKNOWN if the server has no such model."""

    SERVING = "serving"
    NOT_SERVING = "not_serving"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class BatchLatency:
    """Predicted duration of a batch of this size, and the mean deviation from it, in seconds."""

    batch_size: int
    expected_s: float
    spread_s: float


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """How one ONNX file of a model runs.

    Attributes:
        file: The file's name.
        provider: ONNX Runtime's execution provider.
        precision: E.g. "fp32", "bf16" or "int8".
        latencies: By batch size, measured with `instances` concurrent batches.
        instances: Number of batches that run concurrently.
    """

    file: str
    provider: str
    precision: str
    latencies: tuple[BatchLatency, ...]
    instances: int


@dataclass(frozen=True, slots=True)
class Limits:
    """The server's limits for a model; `max_message_bytes` holds for a request and for a response."""

    max_batch_size: int
    max_queue_size: int
    max_message_bytes: int


@dataclass(frozen=True, slots=True)
class PictureSettings:
    """How the server decodes picture files for a model.

    Attributes:
        exif_orientation: "apply" or "ignore".
        jpeg_scaling: Whether large JPEG files are decoded at reduced size.
        formats: Accepted formats, e.g. "JPEG".
        max_image_pixels: Larger pictures are refused.
        max_image_side: Pictures with a longer side, in pixels, are refused.
    """

    exif_orientation: str
    jpeg_scaling: bool
    formats: tuple[str, ...]
    max_image_pixels: int
    max_image_side: int


@dataclass(frozen=True, slots=True)
class Assumption:
    """A property of a model that its checkpoint does not record.

    Attributes:
        name: For example "stride".
        value: The value that the exporter took.
        option: The exporter's option that changes it.
        alternatives: Other values of the option, where they can be listed.
        confirmed: Whether the user or a file stated the value, or answers of the user's model agree with it.
    """

    name: str
    value: str
    option: str
    alternatives: tuple[str, ...] = ()
    confirmed: bool = False


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output in the tensor protocol.

    Attributes:
        name: Its name.
        datatype: As in the Open Inference Protocol, e.g. "FP32"; files and strings are "BYTES".
        shape: With the batch axis; -1 is a free size.
        optional: Whether a request may leave it out. Of a picture model's inputs, a request gives one.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The server's description of a model.

    Attributes:
        summary: Name, version, task and state.
        manifest: As the exporter wrote it; None for a bare ONNX file.
        sessions: One per ONNX file.
        identity: SHA-256 of the model's checksums in hex; empty for a bare ONNX file without
            them.
        verified: Whether the outputs were compared with the golden examples when the model was loaded.
        limits: The server's limits.
        pictures: None for a bare ONNX file.
        verified_against: What the export was compared with: "our_reading" (the exporter's reading of the checkpoint),
            "user_answers" or "user_code"; empty for a bare ONNX file.
        assumptions: Properties that the checkpoint does not record.
        inputs: Inputs of the tensor protocol; empty from older servers.
        outputs: Likewise.
    """

    summary: ModelSummary
    manifest: manifest_pb2.Manifest | None
    sessions: tuple[SessionInfo, ...]
    identity: str
    verified: bool
    limits: Limits
    pictures: PictureSettings | None = None
    verified_against: str = ""
    assumptions: tuple[Assumption, ...] = ()
    inputs: tuple[TensorInfo, ...] = ()
    outputs: tuple[TensorInfo, ...] = ()
