from resonnx_proto.v1 import manifest_pb2 as _manifest_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_STATE_UNSPECIFIED: _ClassVar[ModelState]
    MODEL_STATE_LOADING: _ClassVar[ModelState]
    MODEL_STATE_READY: _ClassVar[ModelState]
    MODEL_STATE_REFUSED: _ClassVar[ModelState]
    MODEL_STATE_DRAINING: _ClassVar[ModelState]
    MODEL_STATE_UNLOADED: _ClassVar[ModelState]
MODEL_STATE_UNSPECIFIED: ModelState
MODEL_STATE_LOADING: ModelState
MODEL_STATE_READY: ModelState
MODEL_STATE_REFUSED: ModelState
MODEL_STATE_DRAINING: ModelState
MODEL_STATE_UNLOADED: ModelState

class Image(_message.Message):
    __slots__ = ("encoded", "raw")
    class Raw(_message.Message):
        __slots__ = ("rgb", "width", "height")
        RGB_FIELD_NUMBER: _ClassVar[int]
        WIDTH_FIELD_NUMBER: _ClassVar[int]
        HEIGHT_FIELD_NUMBER: _ClassVar[int]
        rgb: bytes
        width: int
        height: int
        def __init__(self, rgb: _Optional[bytes] = ..., width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    encoded: bytes
    raw: Image.Raw
    def __init__(self, encoded: _Optional[bytes] = ..., raw: _Optional[_Union[Image.Raw, _Mapping]] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("decode_us", "queue_us", "compute_us", "batch_size")
    DECODE_US_FIELD_NUMBER: _ClassVar[int]
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_US_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    decode_us: int
    queue_us: int
    compute_us: int
    batch_size: int
    def __init__(self, decode_us: _Optional[int] = ..., queue_us: _Optional[int] = ..., compute_us: _Optional[int] = ..., batch_size: _Optional[int] = ...) -> None: ...

class ClassifyRequest(_message.Message):
    __slots__ = ("model", "version", "image", "top_k", "return_features", "id", "priority", "timeout_us", "version_label", "return_heatmap")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    RETURN_FEATURES_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_US_FIELD_NUMBER: _ClassVar[int]
    VERSION_LABEL_FIELD_NUMBER: _ClassVar[int]
    RETURN_HEATMAP_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    image: Image
    top_k: int
    return_features: bool
    id: str
    priority: int
    timeout_us: int
    version_label: str
    return_heatmap: bool
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., image: _Optional[_Union[Image, _Mapping]] = ..., top_k: _Optional[int] = ..., return_features: bool = ..., id: _Optional[str] = ..., priority: _Optional[int] = ..., timeout_us: _Optional[int] = ..., version_label: _Optional[str] = ..., return_heatmap: bool = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("label", "index", "score", "heatmap", "heatmap_bias")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    HEATMAP_FIELD_NUMBER: _ClassVar[int]
    HEATMAP_BIAS_FIELD_NUMBER: _ClassVar[int]
    label: str
    index: int
    score: float
    heatmap: _containers.RepeatedScalarFieldContainer[float]
    heatmap_bias: float
    def __init__(self, label: _Optional[str] = ..., index: _Optional[int] = ..., score: _Optional[float] = ..., heatmap: _Optional[_Iterable[float]] = ..., heatmap_bias: _Optional[float] = ...) -> None: ...

class Area(_message.Message):
    __slots__ = ("left", "top", "right", "bottom")
    LEFT_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    RIGHT_FIELD_NUMBER: _ClassVar[int]
    BOTTOM_FIELD_NUMBER: _ClassVar[int]
    left: float
    top: float
    right: float
    bottom: float
    def __init__(self, left: _Optional[float] = ..., top: _Optional[float] = ..., right: _Optional[float] = ..., bottom: _Optional[float] = ...) -> None: ...

class ClassifyResponse(_message.Message):
    __slots__ = ("model", "version", "predictions", "features", "timing", "id", "heatmap_rows", "heatmap_columns", "heatmap_area")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    HEATMAP_ROWS_FIELD_NUMBER: _ClassVar[int]
    HEATMAP_COLUMNS_FIELD_NUMBER: _ClassVar[int]
    HEATMAP_AREA_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    predictions: _containers.RepeatedCompositeFieldContainer[Prediction]
    features: _containers.RepeatedScalarFieldContainer[float]
    timing: Timing
    id: str
    heatmap_rows: int
    heatmap_columns: int
    heatmap_area: Area
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., predictions: _Optional[_Iterable[_Union[Prediction, _Mapping]]] = ..., features: _Optional[_Iterable[float]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., id: _Optional[str] = ..., heatmap_rows: _Optional[int] = ..., heatmap_columns: _Optional[int] = ..., heatmap_area: _Optional[_Union[Area, _Mapping]] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "reason", "message", "retry_after_ms", "request_id")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    code: str
    reason: str
    message: str
    retry_after_ms: int
    request_id: str
    def __init__(self, code: _Optional[str] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., retry_after_ms: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class ClassifyStreamResponse(_message.Message):
    __slots__ = ("id", "response", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: str
    response: ClassifyResponse
    error: Error
    def __init__(self, id: _Optional[str] = ..., response: _Optional[_Union[ClassifyResponse, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class CaptionRequest(_message.Message):
    __slots__ = ("model", "version", "image", "max_tokens", "id", "beam_width", "num_captions", "length_normalization", "min_tokens", "temperature", "top_k", "top_p", "seed", "forbidden_words", "prefix", "return_attention", "priority", "timeout_us", "version_label")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    BEAM_WIDTH_FIELD_NUMBER: _ClassVar[int]
    NUM_CAPTIONS_FIELD_NUMBER: _ClassVar[int]
    LENGTH_NORMALIZATION_FIELD_NUMBER: _ClassVar[int]
    MIN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FORBIDDEN_WORDS_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    RETURN_ATTENTION_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_US_FIELD_NUMBER: _ClassVar[int]
    VERSION_LABEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    image: Image
    max_tokens: int
    id: str
    beam_width: int
    num_captions: int
    length_normalization: _manifest_pb2.CaptionerSpec.LengthNormalization
    min_tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int
    forbidden_words: _containers.RepeatedScalarFieldContainer[str]
    prefix: _containers.RepeatedScalarFieldContainer[str]
    return_attention: bool
    priority: int
    timeout_us: int
    version_label: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., image: _Optional[_Union[Image, _Mapping]] = ..., max_tokens: _Optional[int] = ..., id: _Optional[str] = ..., beam_width: _Optional[int] = ..., num_captions: _Optional[int] = ..., length_normalization: _Optional[_Union[_manifest_pb2.CaptionerSpec.LengthNormalization, str]] = ..., min_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., seed: _Optional[int] = ..., forbidden_words: _Optional[_Iterable[str]] = ..., prefix: _Optional[_Iterable[str]] = ..., return_attention: bool = ..., priority: _Optional[int] = ..., timeout_us: _Optional[int] = ..., version_label: _Optional[str] = ...) -> None: ...

class Word(_message.Message):
    __slots__ = ("text", "token", "log_prob", "attention")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOG_PROB_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_FIELD_NUMBER: _ClassVar[int]
    text: str
    token: int
    log_prob: float
    attention: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, text: _Optional[str] = ..., token: _Optional[int] = ..., log_prob: _Optional[float] = ..., attention: _Optional[_Iterable[float]] = ...) -> None: ...

class Caption(_message.Message):
    __slots__ = ("text", "log_prob", "words", "score")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LOG_PROB_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    text: str
    log_prob: float
    words: _containers.RepeatedCompositeFieldContainer[Word]
    score: float
    def __init__(self, text: _Optional[str] = ..., log_prob: _Optional[float] = ..., words: _Optional[_Iterable[_Union[Word, _Mapping]]] = ..., score: _Optional[float] = ...) -> None: ...

class CaptionResponse(_message.Message):
    __slots__ = ("model", "version", "captions", "timing", "id", "seed", "attention_rows", "attention_columns")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CAPTIONS_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_ROWS_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_COLUMNS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    captions: _containers.RepeatedCompositeFieldContainer[Caption]
    timing: Timing
    id: str
    seed: int
    attention_rows: int
    attention_columns: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., captions: _Optional[_Iterable[_Union[Caption, _Mapping]]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., id: _Optional[str] = ..., seed: _Optional[int] = ..., attention_rows: _Optional[int] = ..., attention_columns: _Optional[int] = ...) -> None: ...

class StreamCaptionResponse(_message.Message):
    __slots__ = ("word", "final")
    WORD_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    word: Word
    final: CaptionResponse
    def __init__(self, word: _Optional[_Union[Word, _Mapping]] = ..., final: _Optional[_Union[CaptionResponse, _Mapping]] = ...) -> None: ...

class VideoFrames(_message.Message):
    __slots__ = ("images", "times_s")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    TIMES_S_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[Image]
    times_s: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, images: _Optional[_Iterable[_Union[Image, _Mapping]]] = ..., times_s: _Optional[_Iterable[float]] = ...) -> None: ...

class ClassifyVideoRequest(_message.Message):
    __slots__ = ("model", "version", "frames", "clip", "top_k", "id", "priority", "timeout_us", "version_label")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    CLIP_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_US_FIELD_NUMBER: _ClassVar[int]
    VERSION_LABEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    frames: VideoFrames
    clip: bytes
    top_k: int
    id: str
    priority: int
    timeout_us: int
    version_label: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., frames: _Optional[_Union[VideoFrames, _Mapping]] = ..., clip: _Optional[bytes] = ..., top_k: _Optional[int] = ..., id: _Optional[str] = ..., priority: _Optional[int] = ..., timeout_us: _Optional[int] = ..., version_label: _Optional[str] = ...) -> None: ...

class ClassifyVideoResponse(_message.Message):
    __slots__ = ("model", "version", "predictions", "frames_read", "timing", "id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    FRAMES_READ_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    predictions: _containers.RepeatedCompositeFieldContainer[Prediction]
    frames_read: _containers.RepeatedScalarFieldContainer[int]
    timing: Timing
    id: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., predictions: _Optional[_Iterable[_Union[Prediction, _Mapping]]] = ..., frames_read: _Optional[_Iterable[int]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., id: _Optional[str] = ...) -> None: ...

class ClassifyVideoStreamRequest(_message.Message):
    __slots__ = ("model", "version", "image", "top_k", "id", "priority", "timeout_us", "version_label", "answer_every", "time_s")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_US_FIELD_NUMBER: _ClassVar[int]
    VERSION_LABEL_FIELD_NUMBER: _ClassVar[int]
    ANSWER_EVERY_FIELD_NUMBER: _ClassVar[int]
    TIME_S_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    image: Image
    top_k: int
    id: str
    priority: int
    timeout_us: int
    version_label: str
    answer_every: int
    time_s: float
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., image: _Optional[_Union[Image, _Mapping]] = ..., top_k: _Optional[int] = ..., id: _Optional[str] = ..., priority: _Optional[int] = ..., timeout_us: _Optional[int] = ..., version_label: _Optional[str] = ..., answer_every: _Optional[int] = ..., time_s: _Optional[float] = ...) -> None: ...

class ClassifyVideoStreamResponse(_message.Message):
    __slots__ = ("model", "version", "predictions", "frames_read", "frame", "is_final", "timing", "id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    FRAMES_READ_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    IS_FINAL_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    predictions: _containers.RepeatedCompositeFieldContainer[Prediction]
    frames_read: int
    frame: int
    is_final: bool
    timing: Timing
    id: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., predictions: _Optional[_Iterable[_Union[Prediction, _Mapping]]] = ..., frames_read: _Optional[int] = ..., frame: _Optional[int] = ..., is_final: bool = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., id: _Optional[str] = ...) -> None: ...

class ModelSummary(_message.Message):
    __slots__ = ("name", "version", "task", "state", "reason", "labels", "is_default", "stage")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    IS_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    task: _manifest_pb2.Task
    state: ModelState
    reason: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    is_default: bool
    stage: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., task: _Optional[_Union[_manifest_pb2.Task, str]] = ..., state: _Optional[_Union[ModelState, str]] = ..., reason: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., is_default: bool = ..., stage: _Optional[str] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelSummary]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelSummary, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model", "version", "version_label")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VERSION_LABEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    version_label: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., version_label: _Optional[str] = ...) -> None: ...

class SessionInfo(_message.Message):
    __slots__ = ("file", "provider", "precision", "latencies", "instances")
    class BatchLatency(_message.Message):
        __slots__ = ("batch_size", "expected_us", "spread_us")
        BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
        EXPECTED_US_FIELD_NUMBER: _ClassVar[int]
        SPREAD_US_FIELD_NUMBER: _ClassVar[int]
        batch_size: int
        expected_us: float
        spread_us: float
        def __init__(self, batch_size: _Optional[int] = ..., expected_us: _Optional[float] = ..., spread_us: _Optional[float] = ...) -> None: ...
    FILE_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    LATENCIES_FIELD_NUMBER: _ClassVar[int]
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    file: str
    provider: str
    precision: _manifest_pb2.Precision
    latencies: _containers.RepeatedCompositeFieldContainer[SessionInfo.BatchLatency]
    instances: int
    def __init__(self, file: _Optional[str] = ..., provider: _Optional[str] = ..., precision: _Optional[_Union[_manifest_pb2.Precision, str]] = ..., latencies: _Optional[_Iterable[_Union[SessionInfo.BatchLatency, _Mapping]]] = ..., instances: _Optional[int] = ...) -> None: ...

class PictureSettings(_message.Message):
    __slots__ = ("exif_orientation", "jpeg_scaling", "formats", "max_image_pixels", "max_image_side")
    EXIF_ORIENTATION_FIELD_NUMBER: _ClassVar[int]
    JPEG_SCALING_FIELD_NUMBER: _ClassVar[int]
    FORMATS_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_SIDE_FIELD_NUMBER: _ClassVar[int]
    exif_orientation: _manifest_pb2.ImageInput.ExifOrientation
    jpeg_scaling: bool
    formats: _containers.RepeatedScalarFieldContainer[str]
    max_image_pixels: int
    max_image_side: int
    def __init__(self, exif_orientation: _Optional[_Union[_manifest_pb2.ImageInput.ExifOrientation, str]] = ..., jpeg_scaling: bool = ..., formats: _Optional[_Iterable[str]] = ..., max_image_pixels: _Optional[int] = ..., max_image_side: _Optional[int] = ...) -> None: ...

class TensorInfo(_message.Message):
    __slots__ = ("name", "datatype", "shape", "optional")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    OPTIONAL_FIELD_NUMBER: _ClassVar[int]
    name: str
    datatype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    optional: bool
    def __init__(self, name: _Optional[str] = ..., datatype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., optional: bool = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("summary", "manifest", "sessions", "identity", "verified", "max_batch_size", "max_queue_size", "max_message_bytes", "pictures", "inputs", "outputs")
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    summary: ModelSummary
    manifest: _manifest_pb2.Manifest
    sessions: _containers.RepeatedCompositeFieldContainer[SessionInfo]
    identity: str
    verified: bool
    max_batch_size: int
    max_queue_size: int
    max_message_bytes: int
    pictures: PictureSettings
    inputs: _containers.RepeatedCompositeFieldContainer[TensorInfo]
    outputs: _containers.RepeatedCompositeFieldContainer[TensorInfo]
    def __init__(self, summary: _Optional[_Union[ModelSummary, _Mapping]] = ..., manifest: _Optional[_Union[_manifest_pb2.Manifest, _Mapping]] = ..., sessions: _Optional[_Iterable[_Union[SessionInfo, _Mapping]]] = ..., identity: _Optional[str] = ..., verified: bool = ..., max_batch_size: _Optional[int] = ..., max_queue_size: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., pictures: _Optional[_Union[PictureSettings, _Mapping]] = ..., inputs: _Optional[_Iterable[_Union[TensorInfo, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[TensorInfo, _Mapping]]] = ...) -> None: ...
