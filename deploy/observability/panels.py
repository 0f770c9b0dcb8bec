"""The rows of the dashboard: health, waiting requests, causes of waiting, devices, captions, models."""

from typing import Final

from deploy.observability.model_panels import ROWS as MODEL_ROWS
from deploy.observability.panel import MODEL, RANGE, SERVER, Panel, mean, quantile, rate

_SERVED: Final = rate("nv_inference_request_success")
_NOT_CANCELLED: Final = rate("nv_inference_request_failure", MODEL + ', reason!="CANCELED"')
_ENDED: Final = f"({_SERVED} + {_NOT_CANCELLED})"
_FAILED: Final = rate("nv_inference_request_failure", MODEL + ', reason=~"REJECTED|BACKEND"')
_EXPECTED: Final = f"resonnx_batch_expected_seconds{{{MODEL}}}"
_MEMORY: Final = f"resonnx_memory_requests_bytes{{{SERVER}}} / resonnx_memory_requests_max_bytes{{{SERVER}}}"

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
            {"ready": f"sum(resonnx_model_ready{{{MODEL}}})"},
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
            {"{{model}}": quantile(0.99, "resonnx_request_duration_seconds")},
            "s",
        ),
        Panel(
            "Latency, median",
            "Half of the requests are answered within it.",
            {"{{model}}": quantile(0.5, "resonnx_request_duration_seconds")},
            "s",
        ),
        Panel(
            "Missed objectives",
            "Share of the answered requests that took longer than latency_objective_ms; only of models with one.",
            {
                "{{model}}": rate("resonnx_objective_requests_total", f'{MODEL}, result="missed"')
                + f" / ({rate('resonnx_objective_requests_total')} > 0)"
            },
            "percentunit",
        ),
        Panel(
            "Failures by reason",
            "REJECTED: full queues, spent memory, deadlines. BACKEND: failed runs, see the log. OTHER: bad requests.",
            {"{{model}} {{reason}}": rate("nv_inference_request_failure", by="model, reason")},
            "reqps",
        ),
    ],
    "Waiting requests": [
        Panel(
            "Time in the queue, 99th percentile",
            "Long while the device is busy: the load is too high. Long while it is idle: a defect, report it.",
            {"{{model}}": quantile(0.99, "resonnx_queue_duration_seconds")},
            "s",
        ),
        Panel(
            "Queued rows",
            "Rows that wait for a batch.",
            {"{{model}}": f"sum by (model) (resonnx_queue_rows{{{MODEL}}})"},
        ),
        Panel(
            "Oldest queued request",
            "How long it has waited. Far above the time in the queue: a low priority, or a caller beyond its share.",
            {"{{model}}": f"max by (model) (resonnx_queue_oldest_seconds{{{MODEL}}})"},
            "s",
        ),
        Panel(
            "Decoding, 99th percentile",
            "Time to decode a request's pictures, with the wait for a thread. Long: pictures are large.",
            {"{{model}}": quantile(0.99, "resonnx_decode_duration_seconds")},
            "s",
        ),
        Panel(
            "Requests in progress",
            "Requests without a response yet.",
            {"{{model}}": f"sum by (model) (resonnx_requests_in_progress{{{MODEL}}})"},
        ),
        Panel(
            "Pictures waiting to be decoded",
            "Of all models. Steadily above 0: decoding is the bottleneck; send smaller pictures, or add processors.",
            {"{{instance}}": f"resonnx_decode_queue_pictures{{{SERVER}}}"},
        ),
        Panel(
            "Device time by caller",
            "Seconds of device time a second. A caller far above the others floods the server: limit its key.",
            {"{{model}} {{caller}}": rate("resonnx_caller_device_seconds_total", by="model, caller")},
            stacked=True,
        ),
        Panel(
            "Errors that no model counts",
            "KEY_…, CERTIFICATE_…: wrong keys. MODEL_NOT_FOUND: an unknown name. RATE_LIMITED: a key's limit.",
            {"{{reason}}": rate("resonnx_rejected_calls_total", SERVER, "reason")},
            "reqps",
        ),
    ],
    "Causes of waiting": [
        Panel(
            "Time of a request",
            "Mean time by stage. admission and answer: the event loop is busy, run another server. decode: send "
            "smaller pictures. queue, compute: the device.",
            {
                "{{model}} {{stage}}": f"{rate('resonnx_request_stage_seconds_total', by='model, stage')} / on (model) "
                f"group_left () ({_SERVED} > 0)"
            },
            "s",
            stacked=True,
        ),
        Panel(
            "Reasons of batches",
            "Why batches began: full, idle (a lane was free), deadline (or objective), delay (max_queue_delay_us). "
            "Mostly full: the load is at the capacity.",
            {"{{model}} {{reason}}": rate("resonnx_dispatched_batches_total", by="model, reason")},
            "ops",
            stacked=True,
        ),
        Panel(
            "Rows of a batch",
            "Mean rows without padding. Near 1 under load: batches gain nothing on this device (see Expected time of a "
            "batch), or callers wait for each answer.",
            {"{{model}}": mean("resonnx_batch_rows")},
        ),
        Panel(
            "Padding",
            "Share of padding among the rows that ran.",
            {
                "{{model}}": f"{rate('resonnx_padded_rows_total')} / ({rate('resonnx_padded_rows_total')} "
                f"+ {rate('nv_inference_count')} > 0)"
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
            "Error of expected times",
            "Mean absolute error, as a share of the actual time. Above a fifth: deadlines and objectives are kept "
            "badly, as other work shares the processors.",
            {
                "{{model}}": f"{rate('resonnx_run_prediction_error_seconds_total')} / "
                f"({rate('resonnx_run_seconds_total')} > 0)"
            },
            "percentunit",
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
            {"{{instance}}": f"resonnx_memory_callers{{{SERVER}}}"},
        ),
    ],
    "Devices": [
        Panel(
            "Device busy",
            "Share of its lanes that run batches or decoder steps. Near 100 %: the device is saturated. Low while "
            "requests wait: see Time of a request.",
            {
                "{{instance}} {{device}}": f"{rate('resonnx_device_busy_seconds_total', SERVER, 'instance, device')} / "
                f"max by (instance, device) (resonnx_device_lanes{{{SERVER}}})"
            },
            "percentunit",
        ),
        Panel("Batches", "Batches executed, a second.", {"{{model}}": rate("nv_inference_exec_count")}, "ops"),
        Panel(
            "Processors",
            "Cores that the server uses, and the utilisation of the machine, 0 to 1.",
            {
                "{{instance}} cores": f"rate(process_cpu_seconds_total{{{SERVER}}}[{RANGE}])",
                "{{instance}} machine": f"nv_cpu_utilization{{{SERVER}}}",
            },
        ),
        Panel(
            "Memory of the process",
            "Resident memory. A steady rise over days: report it.",
            {"{{instance}}": f"process_resident_memory_bytes{{{SERVER}}}"},
            "bytes",
        ),
        Panel(
            "Hung runs and replaced sessions",
            "Above 0: see the log; a run on the device did not end, or lacked memory.",
            {
                "{{model}} hung": f"sum by (model) (resonnx_hung_runs_total{{{MODEL}}})",
                "{{model}} replaced": f"sum by (model) (resonnx_replaced_sessions_total{{{MODEL}}})",
            },
        ),
        Panel(
            "Open files",
            "Descriptors, as a share of the limit.",
            {"{{instance}}": f"process_open_fds{{{SERVER}}} / process_max_fds{{{SERVER}}}"},
            "percentunit",
        ),
    ],
    **MODEL_ROWS,
}
