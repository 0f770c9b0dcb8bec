"""What the server's answers become: frozen values without protobuf.

Times are seconds, probabilities 0..1, log-probabilities natural.
"""

from dataclasses import dataclass

from resonnx_proto.v1 import manifest_pb2


@dataclass(frozen=True, slots=True)
class Timing:
    """Where a request's time on the server went.

    `batch_size` is the number of pictures that shared the batch (a caption: its encoder batch).
    """

    decode_s: float
    queue_s: float
    compute_s: float
    batch_size: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class and its probability; `index` is its place in the model's labels."""

    label: str
    index: int
    score: float


@dataclass(frozen=True, slots=True)
class Classification:
    """A picture's classes, best first; `features` is what the head sees, None unless asked for."""

    model: str
    version: int
    predictions: tuple[Prediction, ...]
    features: tuple[float, ...] | None
    timing: Timing


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a caption; `token` is its place in the model's vocabulary.

    `attention` is where the model looked, if that was asked for: weights over the picture's grid, row by row from the
    top left.
    """

    text: str
    token: int
    log_prob: float
    attention: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Caption:
    """A sentence; `log_prob` is the sum over all its tokens, the end token included.

    `score` is what captions are ranked by: `log_prob`, allowing for length.
    """

    text: str
    log_prob: float
    words: tuple[Word, ...]
    score: float


@dataclass(frozen=True, slots=True)
class CaptionResult:
    """A picture's captions, best first.

    `seed` is that of the draws, None where nothing was drawn. `attention_grid` is the rows and columns of the words'
    attention, 0 and 0 without.
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

    `task` is "classifier", "captioner" or "tensors"; `state` is "loading", "ready" or "refused",
    and `reason` says why. A number stands for a value that only a newer client can name.
    """

    name: str
    version: int
    task: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class BatchLatency:
    """What a batch of this size is expected to take at present, and how far off that is on average; seconds."""

    batch_size: int
    expected_s: float
    spread_s: float


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What one ONNX file of a model runs on; `precision` is e.g. "fp32", "bf16" or "int8".

    `instances` batches run at once, and `latencies` were measured so.
    """

    file: str
    provider: str
    precision: str
    latencies: tuple[BatchLatency, ...]
    instances: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server takes for this model; bytes are of one request or answer."""

    max_batch_size: int
    max_queue_size: int
    max_message_bytes: int


@dataclass(frozen=True, slots=True)
class PictureSettings:
    """How the server reads picture files for a model.

    `exif_orientation` is "apply" or "ignore", `formats` those that are taken, e.g. "JPEG"; larger
    pictures than `max_image_pixels`, or with a longer side than `max_image_side`, are refused.
    """

    exif_orientation: str
    jpeg_scaling: bool
    formats: tuple[str, ...]
    max_image_pixels: int
    max_image_side: int


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """All that the server tells of a model.

    `manifest` is the exporter's own message (None for a bare ONNX file), `identity` the sha256 of
    the model's checksums in hex (empty for a bare file), and `verified` says whether its answers
    were compared with the golden examples at load. `pictures` is None for a bare ONNX file.
    """

    summary: ModelSummary
    manifest: manifest_pb2.Manifest | None
    sessions: tuple[SessionInfo, ...]
    identity: str
    verified: bool
    limits: Limits
    pictures: PictureSettings | None = None
