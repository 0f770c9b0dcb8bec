from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ComparisonMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COMPARISON_MODE_UNSPECIFIED: _ClassVar[ComparisonMode]
    COMPARISON_MODE_SHADOW: _ClassVar[ComparisonMode]
    COMPARISON_MODE_CANARY: _ClassVar[ComparisonMode]

class ComparisonState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COMPARISON_STATE_UNSPECIFIED: _ClassVar[ComparisonState]
    COMPARISON_STATE_RUNNING: _ClassVar[ComparisonState]
    COMPARISON_STATE_PROMOTED: _ClassVar[ComparisonState]
    COMPARISON_STATE_ROLLED_BACK: _ClassVar[ComparisonState]
    COMPARISON_STATE_ENDED: _ClassVar[ComparisonState]
COMPARISON_MODE_UNSPECIFIED: ComparisonMode
COMPARISON_MODE_SHADOW: ComparisonMode
COMPARISON_MODE_CANARY: ComparisonMode
COMPARISON_STATE_UNSPECIFIED: ComparisonState
COMPARISON_STATE_RUNNING: ComparisonState
COMPARISON_STATE_PROMOTED: ComparisonState
COMPARISON_STATE_ROLLED_BACK: ComparisonState
COMPARISON_STATE_ENDED: ComparisonState

class StartComparisonRequest(_message.Message):
    __slots__ = ("model", "version", "mode", "share", "promote_if", "keep")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    PROMOTE_IF_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    mode: ComparisonMode
    share: float
    promote_if: str
    keep: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., mode: _Optional[_Union[ComparisonMode, str]] = ..., share: _Optional[float] = ..., promote_if: _Optional[str] = ..., keep: _Optional[int] = ...) -> None: ...

class StartComparisonResponse(_message.Message):
    __slots__ = ("comparison",)
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    comparison: Comparison
    def __init__(self, comparison: _Optional[_Union[Comparison, _Mapping]] = ...) -> None: ...

class PromoteRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class PromoteResponse(_message.Message):
    __slots__ = ("comparison",)
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    comparison: Comparison
    def __init__(self, comparison: _Optional[_Union[Comparison, _Mapping]] = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class RollbackResponse(_message.Message):
    __slots__ = ("comparison",)
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    comparison: Comparison
    def __init__(self, comparison: _Optional[_Union[Comparison, _Mapping]] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("comparisons",)
    COMPARISONS_FIELD_NUMBER: _ClassVar[int]
    comparisons: _containers.RepeatedCompositeFieldContainer[Comparison]
    def __init__(self, comparisons: _Optional[_Iterable[_Union[Comparison, _Mapping]]] = ...) -> None: ...

class Comparison(_message.Message):
    __slots__ = ("model", "version", "serving_version", "mode", "share", "promote_if", "state", "reason", "answers", "equal", "errors", "dropped", "waiting", "max_probability_difference", "mean_probability_difference", "mean_edit_distance", "compute_ratio", "p99_ms", "serving_p99_ms", "calls", "serving_calls", "report")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SERVING_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    PROMOTE_IF_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    EQUAL_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    MAX_PROBABILITY_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    MEAN_PROBABILITY_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    MEAN_EDIT_DISTANCE_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_RATIO_FIELD_NUMBER: _ClassVar[int]
    P99_MS_FIELD_NUMBER: _ClassVar[int]
    SERVING_P99_MS_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    SERVING_CALLS_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    serving_version: int
    mode: ComparisonMode
    share: float
    promote_if: str
    state: ComparisonState
    reason: str
    answers: int
    equal: int
    errors: int
    dropped: int
    waiting: int
    max_probability_difference: float
    mean_probability_difference: float
    mean_edit_distance: float
    compute_ratio: float
    p99_ms: float
    serving_p99_ms: float
    calls: int
    serving_calls: int
    report: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., serving_version: _Optional[int] = ..., mode: _Optional[_Union[ComparisonMode, str]] = ..., share: _Optional[float] = ..., promote_if: _Optional[str] = ..., state: _Optional[_Union[ComparisonState, str]] = ..., reason: _Optional[str] = ..., answers: _Optional[int] = ..., equal: _Optional[int] = ..., errors: _Optional[int] = ..., dropped: _Optional[int] = ..., waiting: _Optional[int] = ..., max_probability_difference: _Optional[float] = ..., mean_probability_difference: _Optional[float] = ..., mean_edit_distance: _Optional[float] = ..., compute_ratio: _Optional[float] = ..., p99_ms: _Optional[float] = ..., serving_p99_ms: _Optional[float] = ..., calls: _Optional[int] = ..., serving_calls: _Optional[int] = ..., report: _Optional[str] = ...) -> None: ...
