"""Names and meanings of the series of models: Triton's nv_* counters under their exact names, and our own."""

from collections.abc import Callable
from typing import Final

from resonnx_server.observe.series.histogram import Histogram
from resonnx_server.observe.series.meaning import Meaning
from resonnx_server.observe.series.predictions import Predictions
from resonnx_server.observe.stats import Dispatch, ModelStats

_Read = Callable[[ModelStats], float]
Number = tuple[str, Meaning, _Read]
Distribution = tuple[str, Meaning, Callable[[ModelStats], Histogram]]
OfPredictions = tuple[str, Meaning, Callable[[Predictions], Histogram]]
# One label more, and what its values count.
Parts = tuple[str, Meaning, str, dict[str, _Read]]

# The stage that only captions and clips have.
BETWEEN_STEPS: Final = "between_steps"

# Triton's name, help text and value; durations are sums over requests, in µs.
TRITON: Final[tuple[Number, ...]] = (
    (
        "nv_inference_request_success",
        Meaning("Successful requests", "0 under load: look at `resonnx_request_errors_total` and the log."),
        lambda s: s.success.count,
    ),
    (
        "nv_inference_count",
        Meaning("Rows inferred", "More than requests: requests have several rows; fewer: requests fail first."),
        lambda s: s.inferences,
    ),
    (
        "nv_inference_exec_count",
        Meaning("Batches executed", "As many as rows under load: see `resonnx_batch_rows`."),
        lambda s: s.executions,
    ),
    (
        "nv_inference_request_duration_us",
        Meaning("Total time of successful requests", "As `resonnx_request_duration_seconds`."),
        lambda s: s.success.ns // 1000,
    ),
    (
        "nv_inference_queue_duration_us",
        Meaning("Queue time of successful requests", "As `resonnx_queue_duration_seconds`."),
        lambda s: s.queue.ns // 1000,
    ),
    (
        "nv_inference_compute_input_duration_us",
        Meaning("Batch assembly time of successful requests", "Long: inputs are large; send pictures as files."),
        lambda s: s.compute_input.ns // 1000,
    ),
    (
        "nv_inference_compute_infer_duration_us",
        Meaning("Inference time of successful requests", "As `resonnx_compute_duration_seconds`."),
        lambda s: s.compute_infer.ns // 1000,
    ),
    (
        "nv_inference_compute_output_duration_us",
        Meaning("Batch splitting time of successful requests", "Long: outputs are large; request fewer of them."),
        lambda s: s.compute_output.ns // 1000,
    ),
)
# Our counters; `_total` is appended to their names.
COUNTERS: Final[tuple[Number, ...]] = (
    (
        "resonnx_padded_rows",
        Meaning(
            "Padding rows of batches",
            "Above a fifth of `nv_inference_count`: let requests wait for company (`max_queue_delay_us`).",
        ),
        lambda s: s.padded_rows,
    ),
    (
        "resonnx_hung_runs",
        Meaning(
            "Runs that took far longer than expected and were given up",
            "Above 0: look for the device's errors (`dmesg`); after a pause of the machine, nothing is wrong.",
        ),
        lambda s: s.session_events["interrupted"] + s.session_events["abandoned"],
    ),
    (
        "resonnx_replaced_sessions",
        Meaning(
            "Sessions opened again after a hung run or a lack of memory",
            "Rises: a GPU lacks memory; lower `max_batch_size`, or serve fewer models on it.",
        ),
        lambda s: s.session_events["replaced"],
    ),
    (
        "resonnx_reopened_models",
        Meaning(
            "Times that a request opened the sessions of an unloaded model",
            "Rises steadily: raise `unload_unused_s`, as each such request waits.",
        ),
        lambda s: s.session_events["reopened"],
    ),
    (
        "resonnx_predicted_run_seconds",
        Meaning(
            "Predicted device time of batches and decoder steps",
            "Far from `resonnx_run_seconds_total` for long: other work shares the processors; give the server its own.",
        ),
        lambda s: s.accuracy.predicted_ns / 1e9,
    ),
    (
        "resonnx_run_seconds",
        Meaning("Actual device time of the same runs", "Compare it with `resonnx_predicted_run_seconds_total`."),
        lambda s: s.accuracy.actual_ns / 1e9,
    ),
    (
        "resonnx_run_prediction_error_seconds",
        Meaning(
            "Sum of the absolute differences of predicted and actual times of runs",
            "Above a fifth of the actual time: deadlines and objectives are kept badly; look for other work.",
        ),
        lambda s: s.accuracy.error_ns / 1e9,
    ),
)
CAPTIONERS_COUNTERS: Final[tuple[Number, ...]] = (
    (
        "resonnx_caption_tokens",
        Meaning("Tokens decoded", "Its rate falls under load: captions are shorter, or steps slower."),
        lambda s: s.tokens,
    ),
    (
        "resonnx_decoder_steps",
        Meaning("Decoder steps", "As many as tokens: captions are decoded one by one; there is no load."),
        lambda s: s.steps,
    ),
    (
        "resonnx_decoder_wasted_rows",
        Meaning(
            "Rows of decoder steps that no caption used",
            "More than used rows: captions end faster than pictures are encoded; see the stage `queue`.",
        ),
        lambda s: s.wasted_rows,
    ),
)
CAPTIONERS_GAUGES: Final[tuple[Number, ...]] = (
    (
        "resonnx_decoder_slots",
        Meaning("Decode slots: captions' rows in a step", "Fewer than wanted: raise `max_batch_size`."),
        lambda s: s.slots,
    ),
    (
        "resonnx_decoder_slots_used",
        Meaning("Decode slots in use at the last step", "All, and requests wait: the decoder is the bottleneck."),
        lambda s: s.slots_used if s.in_progress else 0,
    ),
)
PARTS: Final[tuple[Parts, ...]] = (
    (
        "resonnx_request_stage_seconds",
        Meaning(
            "Time of successful requests by stage, which add up to resonnx_request_duration_seconds",
            "The largest stage is the one to improve. `admission` and `answer` are waits for the event loop: it is "
            "busy, so run another server; `decode`: send smaller pictures; `queue` and `compute`: add devices. "
            "`between_steps` is the time between steps of a caption, or between runs of a clip.",
        ),
        "stage",
        {
            "admission": lambda s: s.admission_ns / 1e9,
            "decode": lambda s: s.decode_seconds.sum,
            "queue": lambda s: s.queue_seconds.sum,
            "compute": lambda s: s.compute_seconds.sum,
            BETWEEN_STEPS: lambda s: s.between_ns / 1e9,
            "answer": lambda s: s.answer_ns / 1e9,
        },
    ),
    (
        "resonnx_dispatched_batches",
        Meaning(
            "Batches by the reason why they began with the rows that they had: full (no more fit), idle (a lane was "
            "free), deadline (more rows, or a longer wait, would have made an answer late), delay (max_queue_delay_us)",
            "Mostly full: the load is at the capacity. Mostly deadline: objectives or deadlines are too tight for "
            "efficient batches.",
        ),
        "reason",
        {
            Dispatch.FULL: lambda s: s.dispatched[Dispatch.FULL],
            Dispatch.IDLE: lambda s: s.dispatched[Dispatch.IDLE],
            Dispatch.DEADLINE: lambda s: s.dispatched[Dispatch.DEADLINE],
            Dispatch.DELAY: lambda s: s.dispatched[Dispatch.DELAY],
        },
    ),
)
OBJECTIVE: Final[Parts] = (
    "resonnx_objective_requests",
    Meaning(
        "Successful requests that met or missed the model's latency_objective_ms; only of models with one",
        "Many missed: look at `resonnx_request_stage_seconds_total`; `shed_on_objective` refuses what would miss.",
    ),
    "result",
    {"met": lambda s: s.met, "missed": lambda s: s.missed},
)
HISTOGRAMS: Final[tuple[Distribution, ...]] = (
    (
        "resonnx_request_duration_seconds",
        Meaning(
            "Time from parsing a request to its response",
            "Too long: `resonnx_request_stage_seconds_total` has its parts. Its exemplars are traces of slow requests.",
        ),
        lambda s: s.request_seconds,
    ),
    (
        "resonnx_decode_duration_seconds",
        Meaning(
            "Time to decode a request's pictures, with the wait for a thread",
            "Long: pictures are large, or processors too few; see `resonnx_decode_queue_pictures`.",
        ),
        lambda s: s.decode_seconds,
    ),
    (
        "resonnx_queue_duration_seconds",
        Meaning(
            "Time in the queue",
            "Long while `resonnx_device_busy_seconds_total` is at its limit: the load is too high. Long while the "
            "device is idle: `max_queue_delay_us` is too long.",
        ),
        lambda s: s.queue_seconds,
    ),
    (
        "resonnx_compute_duration_seconds",
        Meaning(
            "Time on the device, with batch assembly and splitting",
            "Longer than before: the machine is slower or shared, or another provider was chosen "
            "(`resonnx_model_info`).",
        ),
        lambda s: s.compute_seconds,
    ),
    (
        "resonnx_batch_rows",
        Meaning(
            "Rows of a batch, without padding",
            "Near 1 under load: batches gain nothing on this device, or callers wait for each answer before the next.",
        ),
        lambda s: s.batch_rows,
    ),
)
CAPTIONERS_HISTOGRAMS: Final[tuple[Distribution, ...]] = (
    (
        "resonnx_decoder_step_rows",
        Meaning("Rows in use in a decoder step", "Far below `resonnx_decoder_slots` under load: encoding is too slow."),
        lambda s: s.step_rows,
    ),
    (
        "resonnx_time_to_first_word_seconds",
        Meaning(
            "Time from arrival to the first word of a caption that can no longer change",
            "Long: see the stages of a request. Beams keep words open longer than greedy decoding.",
        ),
        lambda s: s.first_word_seconds,
    ),
)
PREDICTIONS: Final[tuple[OfPredictions, ...]] = (
    (
        "resonnx_prediction_confidence",
        Meaning(
            "Probability of the best class of each row that was classified",
            "Lower than before: pictures are unlike those that the model learnt from, or are prepared otherwise.",
        ),
        lambda s: s.confidence,
    ),
    (
        "resonnx_prediction_entropy",
        Meaning(
            "Entropy of each row's probabilities, as a share of the most that the classes allow: 0 is certain, 1 is a "
            "guess",
            "Higher than before: as `resonnx_prediction_confidence`.",
        ),
        lambda s: s.entropy,
    ),
)
SHARES: Final = (
    "resonnx_predicted_class_ratio",
    Meaning(
        "Share of a class among about the last 1,000 predictions: of the 20 most frequent classes, and of all `other`",
        "One class takes nearly all: look at the pictures that come; a constant picture has one class.",
    ),
)
FAILURES: Final = (
    "nv_inference_request_failure",
    Meaning(
        "Failed requests",
        "REJECTED: the load is too high, or deadlines too short. BACKEND: runs fail, see the log. OTHER: bad requests.",
    ),
)
ERRORS: Final = (
    "resonnx_request_errors",
    Meaning(
        "Failed requests by the reason in the response; refused ones are QUEUE_FULL, MEMORY_SPENT, WAIT_TOO_LONG and "
        "DEADLINE_UNREACHABLE",
        "docs/operations.md tells what each reason asks for.",
    ),
)
