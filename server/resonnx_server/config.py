"""All settings, with their types and bounds. config_sources.py loads them.

A setting's docstring is its text in --help, error messages and docs/settings.md. After a change: `make settings`.
"""

from pathlib import Path
from typing import Annotated, Final, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    field_serializer,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from resonnx_server.config_text import split_list
from resonnx_server.declaration import Declaration
from resonnx_server.version_policy import canonical, checked_labels

Provider = Literal["auto", "cpu", "openvino", "cuda", "tensorrt"]
GrpcFront = Literal["auto", "aio", "core"]
ExifOrientation = Literal["apply", "ignore"]
PictureFormat = Literal["JPEG", "PNG", "WebP", "BMP", "GIF", "TIFF", "AVIF"]
ControlMode = Literal["none", "poll", "explicit"]
TimeoutAction = Literal["reject", "delay"]
Priority = Annotated[int, Field(ge=1, le=8)]
KeptPictures = Annotated[int, Field(ge=0, le=1000)]
# A day.
_MOST_WAIT_US: Final = 86_400_000_000
# Largest messages that the memory budget must hold.
_LEAST_MESSAGES: Final = 4
Port = Annotated[int, Field(ge=0, le=65535)]


def _formats(value: object) -> object:
    """Split a comma-separated list of formats, ignore case, and drop repetitions."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list):
        return value
    names = {name.lower(): name for name in get_args(PictureFormat)}
    known = [names.get(part.strip().lower(), part) if isinstance(part, str) else part for part in parts]
    return [part for i, part in enumerate(known) if part not in known[:i]]


class PriorityPolicy(BaseModel):
    """Limits of waiting of the requests of one priority."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queue_timeout_us: Annotated[int, Field(ge=0, le=_MOST_WAIT_US)] = 0
    queue_timeout_action: TimeoutAction = "reject"
    allow_timeout_override: bool = False
    max_queue_requests: Annotated[int, Field(ge=0, le=1_000_000)] = 0


class ModelSettings(BaseModel):
    """One model's settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_batch_size: Annotated[int, Field(ge=0, le=64)] = 16
    """Largest batch, in rows (pictures); with 0, no request shares a batch with others."""
    max_instances: Annotated[int, Field(ge=1, le=64)] | None = None
    """Most batches of the model that run at once; fewer if that was measured to be faster, as without this setting."""
    max_queue_size: Annotated[int, Field(ge=1, le=100_000)] = 1024
    """Capacity of the queue in rows; a request beyond is refused with RESOURCE_EXHAUSTED and a retry hint.

    While others fill it, a caller that holds less than an equal part, or nothing, has room beyond. A clip takes its
    frames, but 16 (or `max_batch_size`, if that is larger) at most.
    """
    max_queue_delay_us: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Microseconds that the oldest request may wait for a larger batch; with 0, an idle device starts at once."""
    latency_objective_ms: Annotated[float, Field(gt=0, le=60_000)] | None = None
    """Target latency in milliseconds from arrival to response, used for batch size and order. Does not refuse requests
    by itself."""
    shed_on_objective: bool = False
    """Refuse requests that would miss the objective, as if it were their deadline."""
    allow_timeout_override: bool = False
    """Honour the tensor protocol's request parameter `timeout` in microseconds, like Triton's setting of this name.
    Otherwise it is ignored, as many clients send seconds. With `queue_timeout_us` it can only shorten that; without, it
    is the deadline of the answer."""
    queue_timeout_us: Annotated[int, Field(ge=0, le=_MOST_WAIT_US)] = 0
    """Longest wait of a request in the queue, in microseconds; 0 for no limit. It is looked at when a batch begins."""
    queue_timeout_action: TimeoutAction = "reject"
    """What happens to a request after `queue_timeout_us`: `reject`: it is refused with RESOURCE_EXHAUSTED and a retry
    hint; `delay`: it goes behind all that wait in its priority."""
    max_queue_requests: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Most requests of a priority that wait, beside `max_queue_size`, which counts rows; 0 for no such limit."""
    priority_levels: Annotated[int, Field(ge=0, le=8)] | None = None
    """Priorities that requests of the tensor protocol may have, from 1: those that name another one get
    `default_priority`; with 0, all get it. By default, 8, and others are refused."""
    default_priority: Priority | None = None
    """Priority of requests that name none; by default, 4."""
    priority_policies: dict[Priority, PriorityPolicy] = Field(default_factory=dict)
    """`queue_timeout_us`, `queue_timeout_action`, `allow_timeout_override` and `max_queue_requests` of single
    priorities, in place of the model's: `priority_policies.1.queue_timeout_us = 5000`."""
    run_timeout_s: Annotated[float, Field(gt=0, le=86_400)] | None = None
    """Longest run of a batch, in seconds, after which its requests fail (`INFERENCE_HUNG`) and its session is replaced.
    By default 20 times the 99th percentile of the measured latency, at least 5 s; at least 60 s for shapes that were
    not measured, and for ONNX files without a manifest whose requests share no batch."""
    caption_policy: Literal["continuous", "one", "rigid"] | None = None
    """Deprecated, without effect, and removed in the next release: captions always join and leave between steps."""
    max_frames: Annotated[int, Field(ge=1)] | None = None
    """Most frames of a clip after sampling, if fewer than the model's own limit; of video classifiers."""
    jpeg_scaling: bool = False
    """Decode JPEG files at 1/2, 1/4 or 1/8 of their size if that is still 3.5 times the model's input: several times
    faster; pixels differ slightly from training. Always done above 24 megapixels."""
    exif_orientation: ExifOrientation | None = None
    """Whether to turn pictures upright by their EXIF orientation; by default, as the model's recipe says."""
    provider: Provider | None = None
    """Execution provider of this model; by default, the server's."""
    unload_unused_s: Annotated[float, Field(ge=0, le=1e9)] | None = None
    """`unload_unused_s` of this model; by default, the server's. 0 keeps it in memory."""
    version_policy: Annotated[str, BeforeValidator(canonical)] = "latest: 1"
    """Versions that are served, of those in the model's folder: `latest: N`, `all` or `specific: [1, 3]`. Versions that
    have a label are served as well."""
    labels: Annotated[dict[str, Annotated[int, Field(ge=1, lt=10**18)]], AfterValidator(checked_labels)] = Field(
        default_factory=dict
    )
    """Names of versions, as in `{stable = 3, canary = 4}`, which calls may give in place of a number. With `stable`,
    calls without a version are answered by it; without, by the highest version that serves."""
    keep_disagreements: KeptPictures | None = None
    """`keep_disagreements` of this model; by default, the server's. Without `comparison_reports`, none are kept."""
    declaration: SkipJsonSchema[InstanceOf[Declaration] | None] = None
    """What the model's config.pbtxt declares of its graph; in no other file."""

    @field_serializer("declaration", when_used="json")
    def _told(self, declaration: Declaration | None) -> str | None:
        """Return a text that differs for declarations that differ; bytes and long tables have no form in JSON."""
        return None if declaration is None else repr(declaration)


class Settings(BaseModel):
    """All settings of the server."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repository: Path
    """Folder of models, NAME/VERSION/, as resonnx-export writes them."""
    host: str = "127.0.0.1"
    """Address to listen on for gRPC and HTTP; 0.0.0.0 for all IPv4 addresses."""
    port: Port = 8001
    """gRPC port; 0 for a free one, printed at start."""
    listen_when: Literal["start", "loaded"] = "start"
    """When the gRPC port takes connections: `start`: at once, and calls for a model that is not loaded get UNAVAILABLE;
    `loaded`: when all models are loaded or refused. Until then connections are refused, so that a proxy without health
    checks, such as nginx, sends its calls to another server. The HTTP port takes requests from the start."""
    http_port: Port = 8002
    """HTTP port: /metrics, /livez, /readyz and the pages of `rest`; 0 for a free one."""
    rest: bool = True
    """Serve the Open Inference Protocol as JSON (`/v2/…`) and pages that take pictures and clips (`/v1/classify/NAME`,
    `/v1/caption/NAME`, `/v1/classify-video/NAME`) on the HTTP port. With `keys_file`, they need a key of the role
    `infer`."""
    page: bool = True
    """Serve a page for people at `/` of the HTTP port: models, their state and rates, and answers for a picture. Needs
    `rest`. With `keys_file`, it asks for a key."""
    tls_certificate: Path | None = None
    """PEM file of the server's certificate and its chain: all ports use TLS. Read again when it changes, as are the
    other files of TLS; connections stay."""
    tls_key: Path | None = None
    """PEM file of the certificate's private key, without a password."""
    tls_client_ca: Path | None = None
    """PEM file of authorities. gRPC clients must have a certificate of one of them, whose name is the caller's; on the
    HTTP port, a certificate replaces a key."""
    keys_file: Path | None = None
    """TOML file of API keys, made by `resonnx-server keys new`. With it, calls need `authorization: Bearer KEY`. It is
    read again when it changes."""
    open_health: bool = True
    """gRPC health checks need no key."""
    admin_host: str = "127.0.0.1"
    """Address of the admin port. One that is not a loopback address needs `keys_file`."""
    admin_port: Port | None = None
    """Port of a second gRPC listener, which also serves methods that change the server (loading, comparisons, shared
    memory, settings of traces and logs); 0 for a free one; off by default. Without `keys_file`, whoever reaches it may
    do everything."""
    admin_on_main: bool = False
    """Serve these methods on the gRPC port as well, to keys of the role `admin`; needs `keys_file`."""
    reflection: bool = True
    """Serve gRPC reflection, which tools such as grpcurl use."""
    model_details: bool = True
    """GetModel tells the sources of models, with names and checksums of files, and the versions of tools."""
    grpc_front: GrpcFront = "auto"
    """gRPC server: `aio` is grpc.aio's; `core` is faster, and uses parts of grpcio that are not public; `auto` takes
    `core` if it passes a check at start, else `aio`."""
    provider: Provider = "auto"
    """Execution provider: `auto` for each model's fastest that agrees with its golden examples. A model that the named
    provider cannot load is refused."""
    cache_dir: Path | None = None
    """Folder of the latency cache, which keeps measured batch times between starts; by default, $XDG_CACHE_HOME/resonnx
    or ~/.cache/resonnx. `none` for no cache."""
    trusted_keys: Annotated[tuple[Path, ...], BeforeValidator(split_list)] = ()
    """Files of Ed25519 public keys, as `resonnx-export new-key` writes them. If set, a model version is refused unless
    one of these keys has signed it (`resonnx-export sign`)."""
    control_mode: ControlMode = "none"
    """How models change while the server runs: `none`: they do not; `poll`: the repository is looked at every
    `poll_interval_s`, and a change is taken when it has settled; `explicit`: by RepositoryModelLoad and
    RepositoryModelUnload, and only `load_models` are loaded at start."""
    poll_interval_s: Annotated[float, Field(ge=0.1, le=86_400)] = 5.0
    """Seconds between looks at the repository (`control_mode` poll). A change has settled when two looks in a row find
    the same files, sizes and times."""
    load_models: Annotated[tuple[str, ...], BeforeValidator(split_list)] = ()
    """Models that `control_mode` explicit loads at start; `*` for all."""
    strict: bool = False
    """Not ready while a model is refused, that is, while none of its versions serves."""
    ready_when: Literal["all", "any"] = "all"
    """Ready when all models serve or are refused, or as soon as any model serves."""
    load_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    """Time limit for loading one model, in seconds, after which it is refused and the others serve; it may wait for
    other loads meanwhile, which does not count. TensorRT may need more at its first start, as it builds engines."""
    unload_unused_s: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    """Seconds without a request after which a model's sessions are closed, and their memory is freed; 0 for never. Its
    next request opens them again and waits for that, a fraction of a second for 45 MB; its deadline holds. The model
    stays ready."""
    max_message_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 30)] = 64 << 20
    """Largest request and largest response, in bytes."""
    memory_budget_bytes: Annotated[int, Field(ge=1 << 22)] | None = None
    """Memory of all requests together, in bytes: messages, pictures while they are decoded, tensors and answers until
    they are sent, and the largest batches of the models, up to a quarter of what decoding leaves. At least four times
    max_message_bytes; by default, half of what the process may use (the machine's memory, its control group's, or
    RLIMIT_AS). Where it is spent, requests are refused with RESOURCE_EXHAUSTED and a retry hint."""
    system_shared_memory_bytes: Annotated[int, Field(ge=0, le=1 << 50)] = 0
    """Largest sum of the regions of POSIX shared memory that callers have registered, in bytes; 0 switches it off. A
    caller that may register regions (role `admin`) can read and write every segment that the server's user can."""
    max_image_pixels: Annotated[int, Field(ge=1 << 16, le=1 << 30)] = 1 << 26
    """Largest picture, in pixels, checked in its header before decoding. The memory for decoding grows with it: 18
    bytes a pixel with WebP among `formats`, 21 with TIFF, 28 with AVIF."""
    max_image_side: Annotated[int, Field(ge=64, le=65_535)] = 16_384
    """Longest side of a picture, in pixels."""
    formats: Annotated[tuple[PictureFormat, ...], BeforeValidator(_formats), Field(min_length=1)] = (
        "JPEG",
        "PNG",
        "WebP",
        "BMP",
        "GIF",
    )
    """Accepted formats of picture files."""
    grace_s: Annotated[float, Field(ge=0, le=3600)] = 30.0
    """Time limit for requests in progress after SIGTERM and `drain_delay_s`, in seconds."""
    drain_delay_s: Annotated[float, Field(ge=0, le=600)] = 5.0
    """Seconds after SIGTERM for which new requests are served, while health and readiness say that the server is not
    ready: clients and load balancers need this time to send their requests elsewhere. A second signal ends it; SIGINT
    (Ctrl-C), and a stop before any model serves, do not wait."""
    max_receive_s: Annotated[float, Field(gt=0, le=1e6)] = 60.0
    """Time limit for receiving the request of a call, or the first message of a stream, and for a client to read the
    answer of a unary call, in seconds. The gRPC front `aio` does not enforce it."""
    max_stream_idle_s: Annotated[float, Field(ge=0, le=1e6)] = 3600.0
    """Seconds after which a stream without a further message, or with unread answers, is ended; 0 for never. The gRPC
    front `aio` does not enforce it."""
    max_connection_idle_s: Annotated[float, Field(ge=0, le=1e6)] = 600.0
    """Seconds without a call after which a connection is closed, even if its client pings; 0 for never. Clients
    reconnect by themselves at their next call."""
    max_connection_age_s: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Seconds after which a connection takes no more calls, so that clients connect again, perhaps to another server;
    calls under way go on. By default, connections have no such age."""
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Most gRPC connections at a time; more are closed at once, and their clients see UNAVAILABLE. By default, what the
    limit of open files (`ulimit -n`, whose hard limit counts) leaves after files and HTTP connections, at most 8192."""
    keep_disagreements: KeptPictures = 0
    """Most pictures with differing answers that a comparison of versions may keep for the report of a rollback
    (`resonnx repo canary --keep`); 0 keeps none. They are callers' data."""
    comparison_reports: Path | None = None
    """Folder for reports of rollbacks: HTML pages with the kept pictures and both answers. It must exist; without it
    no pictures are kept."""
    prediction_metrics: bool = True
    """Metrics of what classifiers predict: shares of the most frequent classes, confidence and entropy. Without them,
    no class's name is in the metrics."""
    tracing: Literal["off", "otlp"] = "off"
    """Export distributed traces to an OpenTelemetry collector by OTLP over gRPC: needs the extra `otel`; the variables
    OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER and others of OpenTelemetry configure it."""
    trace_dir: Path | None = None
    """Folder that TraceSetting writes traces of requests to, which must exist; without it, there are no traces."""
    trace_max_bytes: Annotated[int, Field(ge=1 << 10, le=1 << 40)] = 64 << 20
    """Limit of all traces that are written while the server runs, in bytes; further ones are dropped."""
    max_http_connections: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Most HTTP connections at a time, each of which takes one request at a time; beyond, one that runs no request is
    closed for a new one. By default 1024, or an eighth of the limit of open files."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is logged; LogSettings changes it while the server runs."""
    access_log: bool = False
    """Log a line for each request, whatever `log_level` is: method, model, key, outcome, time, size and ids."""
    log_format: Literal["auto", "json"] = "auto"
    """Form of stdout and stderr. With `auto`, the log is JSON lines, and the line at readiness, errors at start and
    progress on a terminal are plain text. With `json`, these are JSON as well."""
    models: dict[str, ModelSettings] = Field(default_factory=dict)
    """Settings of single models by name; in the file only. They go before those in the models' folders."""

    @model_validator(mode="after")
    def _holds_messages(self) -> Self:
        least = _LEAST_MESSAGES * self.max_message_bytes
        if self.memory_budget_bytes is not None and self.memory_budget_bytes < least:
            raise ValueError(
                f"memory_budget_bytes: {self.memory_budget_bytes} is less than {least}, {_LEAST_MESSAGES} times "
                "max_message_bytes"
            )
        return self
