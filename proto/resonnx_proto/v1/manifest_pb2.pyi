from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Task(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_UNSPECIFIED: _ClassVar[Task]
    TASK_CLASSIFIER: _ClassVar[Task]
    TASK_CAPTIONER: _ClassVar[Task]
    TASK_TENSORS: _ClassVar[Task]
    TASK_VIDEO_CLASSIFIER: _ClassVar[Task]

class Precision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRECISION_UNSPECIFIED: _ClassVar[Precision]
    PRECISION_FP32: _ClassVar[Precision]
    PRECISION_TF32: _ClassVar[Precision]
    PRECISION_BF16: _ClassVar[Precision]
    PRECISION_FP16: _ClassVar[Precision]
    PRECISION_INT8: _ClassVar[Precision]

class Reference(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REFERENCE_UNSPECIFIED: _ClassVar[Reference]
    REFERENCE_OUR_READING: _ClassVar[Reference]
    REFERENCE_USER_ANSWERS: _ClassVar[Reference]
    REFERENCE_USER_CODE: _ClassVar[Reference]
TASK_UNSPECIFIED: Task
TASK_CLASSIFIER: Task
TASK_CAPTIONER: Task
TASK_TENSORS: Task
TASK_VIDEO_CLASSIFIER: Task
PRECISION_UNSPECIFIED: Precision
PRECISION_FP32: Precision
PRECISION_TF32: Precision
PRECISION_BF16: Precision
PRECISION_FP16: Precision
PRECISION_INT8: Precision
REFERENCE_UNSPECIFIED: Reference
REFERENCE_OUR_READING: Reference
REFERENCE_USER_ANSWERS: Reference
REFERENCE_USER_CODE: Reference

class ImageInput(_message.Message):
    __slots__ = ("width", "height", "resize", "filter", "resize_short_side", "mean", "std", "exif_orientation", "channel_order", "pixel_scale")
    class Resize(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        RESIZE_UNSPECIFIED: _ClassVar[ImageInput.Resize]
        RESIZE_STRETCH: _ClassVar[ImageInput.Resize]
        RESIZE_SHORT_SIDE_CROP: _ClassVar[ImageInput.Resize]
    RESIZE_UNSPECIFIED: ImageInput.Resize
    RESIZE_STRETCH: ImageInput.Resize
    RESIZE_SHORT_SIDE_CROP: ImageInput.Resize
    class Filter(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        FILTER_UNSPECIFIED: _ClassVar[ImageInput.Filter]
        FILTER_BILINEAR: _ClassVar[ImageInput.Filter]
        FILTER_BICUBIC: _ClassVar[ImageInput.Filter]
        FILTER_LANCZOS: _ClassVar[ImageInput.Filter]
        FILTER_NEAREST: _ClassVar[ImageInput.Filter]
        FILTER_BOX: _ClassVar[ImageInput.Filter]
    FILTER_UNSPECIFIED: ImageInput.Filter
    FILTER_BILINEAR: ImageInput.Filter
    FILTER_BICUBIC: ImageInput.Filter
    FILTER_LANCZOS: ImageInput.Filter
    FILTER_NEAREST: ImageInput.Filter
    FILTER_BOX: ImageInput.Filter
    class ExifOrientation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        EXIF_ORIENTATION_UNSPECIFIED: _ClassVar[ImageInput.ExifOrientation]
        EXIF_ORIENTATION_IGNORE: _ClassVar[ImageInput.ExifOrientation]
        EXIF_ORIENTATION_APPLY: _ClassVar[ImageInput.ExifOrientation]
    EXIF_ORIENTATION_UNSPECIFIED: ImageInput.ExifOrientation
    EXIF_ORIENTATION_IGNORE: ImageInput.ExifOrientation
    EXIF_ORIENTATION_APPLY: ImageInput.ExifOrientation
    class ChannelOrder(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CHANNEL_ORDER_UNSPECIFIED: _ClassVar[ImageInput.ChannelOrder]
        CHANNEL_ORDER_RGB: _ClassVar[ImageInput.ChannelOrder]
        CHANNEL_ORDER_BGR: _ClassVar[ImageInput.ChannelOrder]
    CHANNEL_ORDER_UNSPECIFIED: ImageInput.ChannelOrder
    CHANNEL_ORDER_RGB: ImageInput.ChannelOrder
    CHANNEL_ORDER_BGR: ImageInput.ChannelOrder
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    RESIZE_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    RESIZE_SHORT_SIDE_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STD_FIELD_NUMBER: _ClassVar[int]
    EXIF_ORIENTATION_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_ORDER_FIELD_NUMBER: _ClassVar[int]
    PIXEL_SCALE_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    resize: ImageInput.Resize
    filter: ImageInput.Filter
    resize_short_side: int
    mean: _containers.RepeatedScalarFieldContainer[float]
    std: _containers.RepeatedScalarFieldContainer[float]
    exif_orientation: ImageInput.ExifOrientation
    channel_order: ImageInput.ChannelOrder
    pixel_scale: int
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ..., resize: _Optional[_Union[ImageInput.Resize, str]] = ..., filter: _Optional[_Union[ImageInput.Filter, str]] = ..., resize_short_side: _Optional[int] = ..., mean: _Optional[_Iterable[float]] = ..., std: _Optional[_Iterable[float]] = ..., exif_orientation: _Optional[_Union[ImageInput.ExifOrientation, str]] = ..., channel_order: _Optional[_Union[ImageInput.ChannelOrder, str]] = ..., pixel_scale: _Optional[int] = ...) -> None: ...

class ClassifierSpec(_message.Message):
    __slots__ = ("labels", "feature_size", "activation", "heatmaps")
    class Activation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ACTIVATION_UNSPECIFIED: _ClassVar[ClassifierSpec.Activation]
        ACTIVATION_SOFTMAX: _ClassVar[ClassifierSpec.Activation]
        ACTIVATION_SIGMOID: _ClassVar[ClassifierSpec.Activation]
        ACTIVATION_NONE: _ClassVar[ClassifierSpec.Activation]
    ACTIVATION_UNSPECIFIED: ClassifierSpec.Activation
    ACTIVATION_SOFTMAX: ClassifierSpec.Activation
    ACTIVATION_SIGMOID: ClassifierSpec.Activation
    ACTIVATION_NONE: ClassifierSpec.Activation
    class Heatmaps(_message.Message):
        __slots__ = ("rows", "columns", "unsupported")
        ROWS_FIELD_NUMBER: _ClassVar[int]
        COLUMNS_FIELD_NUMBER: _ClassVar[int]
        UNSUPPORTED_FIELD_NUMBER: _ClassVar[int]
        rows: int
        columns: int
        unsupported: str
        def __init__(self, rows: _Optional[int] = ..., columns: _Optional[int] = ..., unsupported: _Optional[str] = ...) -> None: ...
    LABELS_FIELD_NUMBER: _ClassVar[int]
    FEATURE_SIZE_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    HEATMAPS_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.RepeatedScalarFieldContainer[str]
    feature_size: int
    activation: ClassifierSpec.Activation
    heatmaps: ClassifierSpec.Heatmaps
    def __init__(self, labels: _Optional[_Iterable[str]] = ..., feature_size: _Optional[int] = ..., activation: _Optional[_Union[ClassifierSpec.Activation, str]] = ..., heatmaps: _Optional[_Union[ClassifierSpec.Heatmaps, _Mapping]] = ...) -> None: ...

class CaptionerSpec(_message.Message):
    __slots__ = ("vocabulary", "start_id", "end_id", "pad_id", "unknown_id", "stripped_ids", "max_tokens", "beam_width", "length_normalization", "attention_rows", "attention_columns", "finished_beams", "beam_forbidden_ids")
    class LengthNormalization(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        LENGTH_NORMALIZATION_UNSPECIFIED: _ClassVar[CaptionerSpec.LengthNormalization]
        LENGTH_NORMALIZATION_NONE: _ClassVar[CaptionerSpec.LengthNormalization]
        LENGTH_NORMALIZATION_LENGTH: _ClassVar[CaptionerSpec.LengthNormalization]
        LENGTH_NORMALIZATION_GNMT: _ClassVar[CaptionerSpec.LengthNormalization]
    LENGTH_NORMALIZATION_UNSPECIFIED: CaptionerSpec.LengthNormalization
    LENGTH_NORMALIZATION_NONE: CaptionerSpec.LengthNormalization
    LENGTH_NORMALIZATION_LENGTH: CaptionerSpec.LengthNormalization
    LENGTH_NORMALIZATION_GNMT: CaptionerSpec.LengthNormalization
    class FinishedBeams(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        FINISHED_BEAMS_UNSPECIFIED: _ClassVar[CaptionerSpec.FinishedBeams]
        FINISHED_BEAMS_SHRINK: _ClassVar[CaptionerSpec.FinishedBeams]
        FINISHED_BEAMS_REPLACE: _ClassVar[CaptionerSpec.FinishedBeams]
    FINISHED_BEAMS_UNSPECIFIED: CaptionerSpec.FinishedBeams
    FINISHED_BEAMS_SHRINK: CaptionerSpec.FinishedBeams
    FINISHED_BEAMS_REPLACE: CaptionerSpec.FinishedBeams
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    START_ID_FIELD_NUMBER: _ClassVar[int]
    END_ID_FIELD_NUMBER: _ClassVar[int]
    PAD_ID_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_ID_FIELD_NUMBER: _ClassVar[int]
    STRIPPED_IDS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BEAM_WIDTH_FIELD_NUMBER: _ClassVar[int]
    LENGTH_NORMALIZATION_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_ROWS_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_COLUMNS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_BEAMS_FIELD_NUMBER: _ClassVar[int]
    BEAM_FORBIDDEN_IDS_FIELD_NUMBER: _ClassVar[int]
    vocabulary: _containers.RepeatedScalarFieldContainer[str]
    start_id: int
    end_id: int
    pad_id: int
    unknown_id: int
    stripped_ids: _containers.RepeatedScalarFieldContainer[int]
    max_tokens: int
    beam_width: int
    length_normalization: CaptionerSpec.LengthNormalization
    attention_rows: int
    attention_columns: int
    finished_beams: CaptionerSpec.FinishedBeams
    beam_forbidden_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, vocabulary: _Optional[_Iterable[str]] = ..., start_id: _Optional[int] = ..., end_id: _Optional[int] = ..., pad_id: _Optional[int] = ..., unknown_id: _Optional[int] = ..., stripped_ids: _Optional[_Iterable[int]] = ..., max_tokens: _Optional[int] = ..., beam_width: _Optional[int] = ..., length_normalization: _Optional[_Union[CaptionerSpec.LengthNormalization, str]] = ..., attention_rows: _Optional[int] = ..., attention_columns: _Optional[int] = ..., finished_beams: _Optional[_Union[CaptionerSpec.FinishedBeams, str]] = ..., beam_forbidden_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class VideoClassifierSpec(_message.Message):
    __slots__ = ("labels", "activation", "feature_size", "sampling", "max_frames", "states")
    class Sampling(_message.Message):
        __slots__ = ("rule", "n", "frames_per_second")
        class Rule(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            RULE_UNSPECIFIED: _ClassVar[VideoClassifierSpec.Sampling.Rule]
            RULE_ALL: _ClassVar[VideoClassifierSpec.Sampling.Rule]
            RULE_EVERY: _ClassVar[VideoClassifierSpec.Sampling.Rule]
            RULE_UNIFORM: _ClassVar[VideoClassifierSpec.Sampling.Rule]
            RULE_TIME: _ClassVar[VideoClassifierSpec.Sampling.Rule]
        RULE_UNSPECIFIED: VideoClassifierSpec.Sampling.Rule
        RULE_ALL: VideoClassifierSpec.Sampling.Rule
        RULE_EVERY: VideoClassifierSpec.Sampling.Rule
        RULE_UNIFORM: VideoClassifierSpec.Sampling.Rule
        RULE_TIME: VideoClassifierSpec.Sampling.Rule
        RULE_FIELD_NUMBER: _ClassVar[int]
        N_FIELD_NUMBER: _ClassVar[int]
        FRAMES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
        rule: VideoClassifierSpec.Sampling.Rule
        n: int
        frames_per_second: float
        def __init__(self, rule: _Optional[_Union[VideoClassifierSpec.Sampling.Rule, str]] = ..., n: _Optional[int] = ..., frames_per_second: _Optional[float] = ...) -> None: ...
    class State(_message.Message):
        __slots__ = ("name", "shape")
        NAME_FIELD_NUMBER: _ClassVar[int]
        SHAPE_FIELD_NUMBER: _ClassVar[int]
        name: str
        shape: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    FEATURE_SIZE_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    MAX_FRAMES_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.RepeatedScalarFieldContainer[str]
    activation: ClassifierSpec.Activation
    feature_size: int
    sampling: VideoClassifierSpec.Sampling
    max_frames: int
    states: _containers.RepeatedCompositeFieldContainer[VideoClassifierSpec.State]
    def __init__(self, labels: _Optional[_Iterable[str]] = ..., activation: _Optional[_Union[ClassifierSpec.Activation, str]] = ..., feature_size: _Optional[int] = ..., sampling: _Optional[_Union[VideoClassifierSpec.Sampling, _Mapping]] = ..., max_frames: _Optional[int] = ..., states: _Optional[_Iterable[_Union[VideoClassifierSpec.State, _Mapping]]] = ...) -> None: ...

class PrecisionBound(_message.Message):
    __slots__ = ("file", "precision", "max_deviation")
    FILE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    MAX_DEVIATION_FIELD_NUMBER: _ClassVar[int]
    file: str
    precision: Precision
    max_deviation: float
    def __init__(self, file: _Optional[str] = ..., precision: _Optional[_Union[Precision, str]] = ..., max_deviation: _Optional[float] = ...) -> None: ...

class Source(_message.Message):
    __slots__ = ("sha256", "layout", "architecture", "parameters", "file_names", "file_bytes")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    FILE_NAMES_FIELD_NUMBER: _ClassVar[int]
    FILE_BYTES_FIELD_NUMBER: _ClassVar[int]
    sha256: _containers.RepeatedScalarFieldContainer[str]
    layout: str
    architecture: str
    parameters: int
    file_names: _containers.RepeatedScalarFieldContainer[str]
    file_bytes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, sha256: _Optional[_Iterable[str]] = ..., layout: _Optional[str] = ..., architecture: _Optional[str] = ..., parameters: _Optional[int] = ..., file_names: _Optional[_Iterable[str]] = ..., file_bytes: _Optional[_Iterable[int]] = ...) -> None: ...

class ParityCheck(_message.Message):
    __slots__ = ("name", "pictures", "max_abs_difference", "max_abs_reference", "bound", "identical", "drift", "words", "words_not_compared")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_REFERENCE_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    IDENTICAL_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    WORDS_NOT_COMPARED_FIELD_NUMBER: _ClassVar[int]
    name: str
    pictures: int
    max_abs_difference: float
    max_abs_reference: float
    bound: float
    identical: int
    drift: float
    words: int
    words_not_compared: int
    def __init__(self, name: _Optional[str] = ..., pictures: _Optional[int] = ..., max_abs_difference: _Optional[float] = ..., max_abs_reference: _Optional[float] = ..., bound: _Optional[float] = ..., identical: _Optional[int] = ..., drift: _Optional[float] = ..., words: _Optional[int] = ..., words_not_compared: _Optional[int] = ...) -> None: ...

class Agreement(_message.Message):
    __slots__ = ("file", "precision", "asked", "pictures", "identical", "max_abs_difference", "max_abs_reference", "bound", "right", "right_in_fp32", "blocks_in_float")
    FILE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    IDENTICAL_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_REFERENCE_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    RIGHT_FIELD_NUMBER: _ClassVar[int]
    RIGHT_IN_FP32_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_IN_FLOAT_FIELD_NUMBER: _ClassVar[int]
    file: str
    precision: Precision
    asked: str
    pictures: int
    identical: int
    max_abs_difference: float
    max_abs_reference: float
    bound: float
    right: int
    right_in_fp32: int
    blocks_in_float: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, file: _Optional[str] = ..., precision: _Optional[_Union[Precision, str]] = ..., asked: _Optional[str] = ..., pictures: _Optional[int] = ..., identical: _Optional[int] = ..., max_abs_difference: _Optional[float] = ..., max_abs_reference: _Optional[float] = ..., bound: _Optional[float] = ..., right: _Optional[int] = ..., right_in_fp32: _Optional[int] = ..., blocks_in_float: _Optional[_Iterable[str]] = ...) -> None: ...

class ParityReport(_message.Message):
    __slots__ = ("checks", "damaged_copy_rejected", "agreements")
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_COPY_REJECTED_FIELD_NUMBER: _ClassVar[int]
    AGREEMENTS_FIELD_NUMBER: _ClassVar[int]
    checks: _containers.RepeatedCompositeFieldContainer[ParityCheck]
    damaged_copy_rejected: bool
    agreements: _containers.RepeatedCompositeFieldContainer[Agreement]
    def __init__(self, checks: _Optional[_Iterable[_Union[ParityCheck, _Mapping]]] = ..., damaged_copy_rejected: bool = ..., agreements: _Optional[_Iterable[_Union[Agreement, _Mapping]]] = ...) -> None: ...

class Assumption(_message.Message):
    __slots__ = ("name", "value", "option", "alternatives", "confirmed", "unconfirmed")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    OPTION_FIELD_NUMBER: _ClassVar[int]
    ALTERNATIVES_FIELD_NUMBER: _ClassVar[int]
    CONFIRMED_FIELD_NUMBER: _ClassVar[int]
    UNCONFIRMED_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    option: str
    alternatives: _containers.RepeatedScalarFieldContainer[str]
    confirmed: bool
    unconfirmed: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ..., option: _Optional[str] = ..., alternatives: _Optional[_Iterable[str]] = ..., confirmed: bool = ..., unconfirmed: _Optional[str] = ...) -> None: ...

class ProviderSpeed(_message.Message):
    __slots__ = ("file", "provider", "precision", "batches", "refused")
    class Batch(_message.Message):
        __slots__ = ("batch_size", "median_ms", "lower_quartile_ms", "upper_quartile_ms", "runs")
        BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
        MEDIAN_MS_FIELD_NUMBER: _ClassVar[int]
        LOWER_QUARTILE_MS_FIELD_NUMBER: _ClassVar[int]
        UPPER_QUARTILE_MS_FIELD_NUMBER: _ClassVar[int]
        RUNS_FIELD_NUMBER: _ClassVar[int]
        batch_size: int
        median_ms: float
        lower_quartile_ms: float
        upper_quartile_ms: float
        runs: int
        def __init__(self, batch_size: _Optional[int] = ..., median_ms: _Optional[float] = ..., lower_quartile_ms: _Optional[float] = ..., upper_quartile_ms: _Optional[float] = ..., runs: _Optional[int] = ...) -> None: ...
    FILE_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    file: str
    provider: str
    precision: Precision
    batches: _containers.RepeatedCompositeFieldContainer[ProviderSpeed.Batch]
    refused: str
    def __init__(self, file: _Optional[str] = ..., provider: _Optional[str] = ..., precision: _Optional[_Union[Precision, str]] = ..., batches: _Optional[_Iterable[_Union[ProviderSpeed.Batch, _Mapping]]] = ..., refused: _Optional[str] = ...) -> None: ...

class SpeedReport(_message.Message):
    __slots__ = ("processor", "accelerators", "threads", "providers")
    PROCESSOR_FIELD_NUMBER: _ClassVar[int]
    ACCELERATORS_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    PROVIDERS_FIELD_NUMBER: _ClassVar[int]
    processor: str
    accelerators: _containers.RepeatedScalarFieldContainer[str]
    threads: int
    providers: _containers.RepeatedCompositeFieldContainer[ProviderSpeed]
    def __init__(self, processor: _Optional[str] = ..., accelerators: _Optional[_Iterable[str]] = ..., threads: _Optional[int] = ..., providers: _Optional[_Iterable[_Union[ProviderSpeed, _Mapping]]] = ...) -> None: ...

class DriftReference(_message.Message):
    __slots__ = ("pictures", "features", "projections", "absent")
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    PROJECTIONS_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    pictures: int
    features: int
    projections: int
    absent: str
    def __init__(self, pictures: _Optional[int] = ..., features: _Optional[int] = ..., projections: _Optional[int] = ..., absent: _Optional[str] = ...) -> None: ...

class Manifest(_message.Message):
    __slots__ = ("schema_version", "task", "input", "classifier", "captioner", "video_classifier", "precisions", "stored", "source", "tool_versions", "parity", "file_bytes", "speed", "verified_against", "assumptions", "needs_server", "drift")
    class StoredEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Precision
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Precision, str]] = ...) -> None: ...
    class ToolVersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class FileBytesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    CLASSIFIER_FIELD_NUMBER: _ClassVar[int]
    CAPTIONER_FIELD_NUMBER: _ClassVar[int]
    VIDEO_CLASSIFIER_FIELD_NUMBER: _ClassVar[int]
    PRECISIONS_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TOOL_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    PARITY_FIELD_NUMBER: _ClassVar[int]
    FILE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SPEED_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_AGAINST_FIELD_NUMBER: _ClassVar[int]
    ASSUMPTIONS_FIELD_NUMBER: _ClassVar[int]
    NEEDS_SERVER_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    schema_version: int
    task: Task
    input: ImageInput
    classifier: ClassifierSpec
    captioner: CaptionerSpec
    video_classifier: VideoClassifierSpec
    precisions: _containers.RepeatedCompositeFieldContainer[PrecisionBound]
    stored: _containers.ScalarMap[str, Precision]
    source: Source
    tool_versions: _containers.ScalarMap[str, str]
    parity: ParityReport
    file_bytes: _containers.ScalarMap[str, int]
    speed: SpeedReport
    verified_against: Reference
    assumptions: _containers.RepeatedCompositeFieldContainer[Assumption]
    needs_server: str
    drift: DriftReference
    def __init__(self, schema_version: _Optional[int] = ..., task: _Optional[_Union[Task, str]] = ..., input: _Optional[_Union[ImageInput, _Mapping]] = ..., classifier: _Optional[_Union[ClassifierSpec, _Mapping]] = ..., captioner: _Optional[_Union[CaptionerSpec, _Mapping]] = ..., video_classifier: _Optional[_Union[VideoClassifierSpec, _Mapping]] = ..., precisions: _Optional[_Iterable[_Union[PrecisionBound, _Mapping]]] = ..., stored: _Optional[_Mapping[str, Precision]] = ..., source: _Optional[_Union[Source, _Mapping]] = ..., tool_versions: _Optional[_Mapping[str, str]] = ..., parity: _Optional[_Union[ParityReport, _Mapping]] = ..., file_bytes: _Optional[_Mapping[str, int]] = ..., speed: _Optional[_Union[SpeedReport, _Mapping]] = ..., verified_against: _Optional[_Union[Reference, str]] = ..., assumptions: _Optional[_Iterable[_Union[Assumption, _Mapping]]] = ..., needs_server: _Optional[str] = ..., drift: _Optional[_Union[DriftReference, _Mapping]] = ...) -> None: ...
