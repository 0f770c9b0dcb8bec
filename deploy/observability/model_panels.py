"""The last rows of the dashboard: captions, models and drift."""

from typing import Final

from deploy.observability.panel import MODEL, SERVER, Panel, mean, quantile, rate

_UNUSED: Final = rate("resonnx_decoder_wasted_rows_total")

ROWS: Final[dict[str, list[Panel]]] = {
    "Captions": [
        Panel("Words", "Tokens decoded, a second.", {"{{model}}": rate("resonnx_caption_tokens_total")}, "ops"),
        Panel(
            "Time to the first word, 99th percentile",
            "From arrival to a first word that can no longer change.",
            {"{{model}}": quantile(0.99, "resonnx_time_to_first_word_seconds")},
            "s",
        ),
        Panel(
            "Rows of a decoder step",
            "Mean rows in use. Far below the slots under load: captions end faster than new ones start.",
            {"{{model}}": mean("resonnx_decoder_step_rows")},
        ),
        Panel(
            "Decode slots",
            "Slots in use at the last step, and all slots.",
            {
                "{{model}} used": f"sum by (model) (resonnx_decoder_slots_used{{{MODEL}}})",
                "{{model}} all": f"sum by (model) (resonnx_decoder_slots{{{MODEL}}})",
            },
        ),
        Panel(
            "Unused rows of decoder steps",
            "Share of the rows of decoder steps that no caption used.",
            {"{{model}}": f"{_UNUSED} / ({_UNUSED} + {rate('resonnx_decoder_step_rows_sum')} > 0)"},
            "percentunit",
        ),
    ],
    "Models and drift": [
        Panel(
            "Predicted classes",
            "Shares among the last predictions. One class takes nearly all: look at the pictures that come.",
            {
                "{{model}} {{version}} {{class}} {{name}}": "avg by (model, version, class, name) "
                f"(resonnx_predicted_class_ratio{{{MODEL}}})"
            },
            "percentunit",
            stacked=True,
        ),
        Panel(
            "Confidence",
            "Mean probability of the best class. Lower than before: pictures are unlike those of the training.",
            {"{{model}}": mean("resonnx_prediction_confidence")},
            "percentunit",
        ),
        Panel(
            "Entropy",
            "Mean entropy of the probabilities: 0 is certain, 100 % is a guess. Higher than before: as Confidence.",
            {"{{model}}": mean("resonnx_prediction_entropy")},
            "percentunit",
        ),
        Panel(
            "Drift of pictures and captions",
            "Distance of the last requests from the reference pictures, as a multiple of what requests like those do "
            "not exceed. Above 1: look at pictures and answers (docs/drift.md). No data: exported without --pictures.",
            {
                "{{model}} {{version}} {{of}} {{window}}": "max by (model, version, of, window) "
                f'(resonnx_drift_distance{{{MODEL},traffic="requests"}} / '
                f'resonnx_drift_bound{{{MODEL},traffic="requests"}})'
            },
        ),
        Panel(
            "Rows behind the drift",
            "Effective number of the last rows; with few, only large changes exceed the bound.",
            {
                "{{model}} {{version}} {{of}} {{window}}": "min by (model, version, of, window) "
                f'(resonnx_drift_rows{{{MODEL},traffic="requests"}})'
            },
        ),
        Panel(
            "Versions by state",
            "refused: the log and `resonnx repo ls` have the reason.",
            {"": f"sum by (model, version, state) (resonnx_model_state{{{MODEL}}})"},
            kind="table",
        ),
        Panel(
            "How models run",
            "Provider and precision of each file. our_reading: the export was not compared with the user's own "
            "model or its answers.",
            {
                "": "sum by (model, version, file, provider, precision, verified_against) "
                f"(resonnx_model_info{{{MODEL}}})"
            },
            kind="table",
        ),
        Panel(
            "Builds",
            "Versions of the servers and of their runtimes. Several for long: a rollout has stopped half way.",
            {"": f"sum by (version, runtime, runtime_version, python) (resonnx_build_info{{{SERVER}}})"},
            kind="table",
        ),
        Panel(
            "Loads",
            "Loads that ended, by result.",
            {"{{model}} {{result}}": "sum by (model, result) (resonnx_model_loads_total{" + MODEL + "})"},
        ),
        Panel(
            "Comparisons",
            "State of each comparison of a new version.",
            {"": f"sum by (model, version, mode, state) (resonnx_comparison_state{{{MODEL}}})"},
            kind="table",
        ),
        Panel(
            "Compared answers",
            "Answers of a new version that are equal to, or different from, those of the version that serves.",
            {"{{model}} {{version}} {{result}}": rate("resonnx_comparison_answers_total", by="model, version, result")},
            "reqps",
        ),
        Panel(
            "Compute time of the new version",
            "As a multiple of the serving version's, at equal batch size.",
            {"{{model}} {{version}}": f"max by (model, version) (resonnx_comparison_compute_ratio{{{MODEL}}})"},
        ),
    ],
}
