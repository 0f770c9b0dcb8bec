"""The rows of the dashboard: health, waiting requests, causes of waiting, devices, captions, models."""

from dataclasses import dataclass, field
from typing import Final, Literal

# Grafana replaces them: the chosen models and servers, and a range of at least four scrapes.
_MODEL: Final = 'model=~"$model", instance=~"$instance"'
_SERVER: Final = 'instance=~"$instance"'
_RANGE: Final = "$__rate_interval"


@dataclass(frozen=True)
class Panel:
    """A panel and its queries.

    Attributes:
        title: Title of the panel.
        description: What its values mean and what to do when they look wrong.
        queries: Legend, in Grafana's template form, to PromQL expression.
        unit: Grafana's name of the unit; "short" is a plain number.
        kind: Kind of the panel.
        columns: Width, of 24.
        stacked: Whether the series are parts of a whole.
    """

    title: str
    description: str
    queries: dict[str, str]
    unit: str = "short"
    kind: Literal["timeseries", "stat", "table"] = "timeseries"
    columns: int = 8
    stacked: bool = field(default=False, kw_only=True)


def _rate(metric: str, labels: str = _MODEL, by: str = "model") -> str:
    return f"sum by ({by}) (rate({metric}{{{labels}}}[{_RANGE}]))"


def _mean(metric: str) -> str:
    """Mean of a histogram's observations."""
    return f"{_rate(metric + '_sum')} / ({_rate(metric + '_count')} > 0)"


def _quantile(share: float, metric: str) -> str:
    return f"histogram_quantile({share}, {_rate(metric + '_bucket', by='model, le')})"


_SERVED: Final = _rate("nv_inference_request_success")
_NOT_CANCELLED: Final = _rate("nv_inference_request_failure", _MODEL + ', reason!="CANCELED"')
_ENDED: Final = f"({_SERVED} + {_NOT_CANCELLED})"
_FAILED: Final = _rate("nv_inference_request_failure", _MODEL + ', reason=~"REJECTED|BACKEND"')
_EXPECTED: Final = f"resonnx_batch_expected_seconds{{{_MODEL}}}"
_UNUSED: Final = _rate("resonnx_decoder_wasted_rows_total")
_MEMORY: Final = f"resonnx_memory_requests_bytes{{{_SERVER}}} / resonnx_memory_requests_max_bytes{{{_SERVER}}}"

ROWS: Final[dict[str, list[Panel]]] = {
    "Health": [
        Panel(
            "Servers",
            "Servers that answer Prometheus. Fewer than you run: see ResonnxDown in docs/operations.md.",
            {"up": 'sum(up{job="resonnx", instance=~"$instance"})'},
            kind="stat",
            columns=4,
        ),
        Panel(
            "Versions that serve",
            "Model versions that are ready, over all servers. Fewer than usual: see Versions by state, below.",
            {"ready": f"sum(resonnx_model_ready{{{_MODEL}}})"},
            kind="stat",
            columns=4,
        ),
        Panel("Requests", "Requests answered, a second.", {"{{model}}": _SERVED}, "reqps"),
        Panel(
            "Failed requests",
            "Share of requests that were refused, missed their deadline or failed in a run. The objective allows "
            "0.1 %.",
            {"{{model}}": f"{_FAILED} / ({_ENDED} > 0)"},
            "percentunit",
        ),
        Panel(
            "Latency, 99th percentile",
            "From parsing a request to its response. Too long: Time of a request, below, has its parts.",
            {"{{model}}": _quantile(0.99, "resonnx_request_duration_seconds")},
            "s",
        ),
        Panel(
            "Latency, median",
            "Half of the requests are answered within it.",
            {"{{model}}": _quantile(0.5, "resonnx_request_duration_seconds")},
            "s",
        ),
        Panel(
            "Failures by reason",
            "REJECTED: full queues, spent memory, deadlines. BACKEND: failed runs, see the log. OTHER: bad requests.",
            {"{{model}} {{reason}}": _rate("nv_inference_request_failure", by="model, reason")},
            "reqps",
        ),
    ],
    "Waiting requests": [
        Panel(
            "Time in the queue, 99th percentile",
            "Long while the device is busy: the load is too high. Long while it is idle: a defect, report it.",
            {"{{model}}": _quantile(0.99, "resonnx_queue_duration_seconds")},
            "s",
        ),
        Panel(
            "Queued rows",
            "Rows that wait for a batch.",
            {"{{model}}": f"sum by (model) (resonnx_queue_rows{{{_MODEL}}})"},
        ),
        Panel(
            "Requests in progress",
            "Requests without a response yet.",
            {"{{model}}": f"sum by (model) (resonnx_requests_in_progress{{{_MODEL}}})"},
        ),
        Panel(
            "Pictures waiting to be decoded",
            "Of all models. Steadily above 0: decoding is the bottleneck; send smaller pictures, or add processors.",
            {"{{instance}}": f"resonnx_decode_queue_pictures{{{_SERVER}}}"},
        ),
        Panel(
            "Device time by caller",
            "Seconds of device time a second. A caller far above the others floods the server: limit its key.",
            {"{{model}} {{caller}}": _rate("resonnx_caller_device_seconds_total", by="model, caller")},
            stacked=True,
        ),
        Panel(
            "Errors that no model counts",
            "KEY_…, CERTIFICATE_…: wrong keys. MODEL_NOT_FOUND: an unknown name. RATE_LIMITED: a key's limit.",
            {"{{reason}}": _rate("resonnx_rejected_calls_total", _SERVER, "reason")},
            "reqps",
        ),
    ],
    "Causes of waiting": [
        Panel(
            "Time of a request",
            "Mean time in the queue, for inputs, on the device and for outputs. The rest is decoding and transport.",
            {
                f"{{{{model}}}} {stage}": f"{_rate(f'nv_inference_{name}_duration_us')} / 1000000 / ({_SERVED} > 0)"
                for stage, name in (
                    ("queue", "queue"),
                    ("inputs", "compute_input"),
                    ("device", "compute_infer"),
                    ("outputs", "compute_output"),
                )
            },
            "s",
            stacked=True,
        ),
        Panel(
            "Rows of a batch",
            "Mean rows without padding. Near 1 under load: batches gain nothing on this device (see Expected time of a "
            "batch), or callers wait for each answer.",
            {"{{model}}": _mean("resonnx_batch_rows")},
        ),
        Panel(
            "Padding",
            "Share of padding among the rows that ran.",
            {
                "{{model}}": f"{_rate('resonnx_padded_rows_total')} / ({_rate('resonnx_padded_rows_total')} "
                f"+ {_rate('nv_inference_count')} > 0)"
            },
            "percentunit",
        ),
        Panel(
            "Expected time of a batch",
            "Duration that the scheduler expects, by batch size. A jump: the machine is slower, or has other work.",
            {"{{model}} {{file}} {{batch_size}}": f"max by (model, file, batch_size) ({_EXPECTED})"},
            "s",
        ),
        Panel(
            "Memory of requests",
            "Share of the memory that requests may take. At 100 % new ones are refused.",
            {"{{instance}}": _MEMORY},
            "percentunit",
        ),
        Panel(
            "Callers with memory",
            "Callers that hold memory of the budget.",
            {"{{instance}}": f"resonnx_memory_callers{{{_SERVER}}}"},
        ),
    ],
    "Devices": [
        Panel(
            "Device busy",
            "Seconds of batches a second, summed over the batches that run at the same time. Constant at the number of "
            "instances: the device is saturated.",
            {"{{model}}": _rate("resonnx_compute_duration_seconds_sum")},
        ),
        Panel("Batches", "Batches executed, a second.", {"{{model}}": _rate("nv_inference_exec_count")}, "ops"),
        Panel(
            "Processors",
            "Cores that the server uses, and the utilisation of the machine, 0 to 1.",
            {
                "{{instance}} cores": f"rate(process_cpu_seconds_total{{{_SERVER}}}[{_RANGE}])",
                "{{instance}} machine": f"nv_cpu_utilization{{{_SERVER}}}",
            },
        ),
        Panel(
            "Memory of the process",
            "Resident memory. A steady rise over days: report it.",
            {"{{instance}}": f"process_resident_memory_bytes{{{_SERVER}}}"},
            "bytes",
        ),
        Panel(
            "Hung runs and replaced sessions",
            "Above 0: see the log; a run on the device did not end, or lacked memory.",
            {
                "{{model}} hung": f"sum by (model) (resonnx_hung_runs_total{{{_MODEL}}})",
                "{{model}} replaced": f"sum by (model) (resonnx_replaced_sessions_total{{{_MODEL}}})",
            },
        ),
        Panel(
            "Open files",
            "Descriptors, as a share of the limit.",
            {"{{instance}}": f"process_open_fds{{{_SERVER}}} / process_max_fds{{{_SERVER}}}"},
            "percentunit",
        ),
    ],
    "Captions": [
        Panel("Words", "Tokens decoded, a second.", {"{{model}}": _rate("resonnx_caption_tokens_total")}, "ops"),
        Panel(
            "Time to the first word, 99th percentile",
            "From arrival to a first word that can no longer change.",
            {"{{model}}": _quantile(0.99, "resonnx_time_to_first_word_seconds")},
            "s",
        ),
        Panel(
            "Rows of a decoder step",
            "Mean rows in use. Far below the slots under load: captions end faster than new ones start.",
            {"{{model}}": _mean("resonnx_decoder_step_rows")},
        ),
        Panel(
            "Decode slots",
            "Slots in use at the last step, and all slots.",
            {
                "{{model}} used": f"sum by (model) (resonnx_decoder_slots_used{{{_MODEL}}})",
                "{{model}} all": f"sum by (model) (resonnx_decoder_slots{{{_MODEL}}})",
            },
        ),
        Panel(
            "Unused rows of decoder steps",
            "Share of the rows of decoder steps that no caption used.",
            {"{{model}}": f"{_UNUSED} / ({_UNUSED} + {_rate('resonnx_decoder_step_rows_sum')} > 0)"},
            "percentunit",
        ),
    ],
    "Models and drift": [
        Panel(
            "Versions by state",
            "refused: the log and `resonnx repo ls` have the reason.",
            {"": f"sum by (model, version, state) (resonnx_model_state{{{_MODEL}}})"},
            kind="table",
        ),
        Panel(
            "References of exports",
            "our_reading: the export was not compared with the user's own model or its answers.",
            {"": f"sum by (model, version, verified_against) (resonnx_model_info{{{_MODEL}}})"},
            kind="table",
        ),
        Panel(
            "Drift of pictures and captions",
            "Distance of the last requests from the reference pictures, as a multiple of what requests like those do "
            "not exceed. Above 1: look at pictures and answers (docs/drift.md). No data: exported without --pictures.",
            {
                "{{model}} {{version}} {{of}} {{window}}": "max by (model, version, of, window) "
                f'(resonnx_drift_distance{{{_MODEL},traffic="requests"}} / '
                f'resonnx_drift_bound{{{_MODEL},traffic="requests"}})'
            },
        ),
        Panel(
            "Rows behind the drift",
            "Effective number of the last rows; with few, only large changes exceed the bound.",
            {
                "{{model}} {{version}} {{of}} {{window}}": "min by (model, version, of, window) "
                f'(resonnx_drift_rows{{{_MODEL},traffic="requests"}})'
            },
        ),
        Panel(
            "Loads",
            "Loads that ended, by result.",
            {"{{model}} {{result}}": "sum by (model, result) (resonnx_model_loads_total{" + _MODEL + "})"},
        ),
        Panel(
            "Comparisons",
            "State of each comparison of a new version.",
            {"": f"sum by (model, version, mode, state) (resonnx_comparison_state{{{_MODEL}}})"},
            kind="table",
        ),
        Panel(
            "Compared answers",
            "Answers of a new version that are equal to, or different from, those of the version that serves.",
            {
                "{{model}} {{version}} {{result}}": _rate(
                    "resonnx_comparison_answers_total", by="model, version, result"
                )
            },
            "reqps",
        ),
        Panel(
            "Compute time of the new version",
            "As a multiple of the serving version's, at equal batch size.",
            {"{{model}} {{version}}": f"max by (model, version) (resonnx_comparison_compute_ratio{{{_MODEL}}})"},
        ),
    ],
}
