"""Puts the page together: everything is computed first, the template only says where it goes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.manifest import DECODER_FILE

from resonnx_export.precision.rescored import RESCORED
from resonnx_export.proof.predictions import Answers, CaptionerAnswers
from resonnx_export.report.attention import attended_pictures
from resonnx_export.report.histogram import count_differences, draw
from resonnx_export.report.tables import facts, figures, parity_rows, sizes, speed_rows
from resonnx_export.report.worst import worst_pictures
from resonnx_export.wording import precision_name, scientific

_TEMPLATE: Final = "report.html"


@dataclass(frozen=True)
class Findings:
    """What the page tells beside the manifest.

    Attributes:
        name: The model's.
        version: Its number.
        answers: What the final graphs were judged by.
        bound: What the answers' differences may be.
        notes: What the export told the person who ran it.
    """

    name: str
    version: str
    answers: Answers
    bound: float
    notes: tuple[str, ...]


def render_report(findings: Findings, files: Mapping[str, bytes], manifest: pb.Manifest) -> str:
    """Return report.html.

    Args:
        findings: What the manifest does not hold.
        files: The ONNX files by name; a captioner's are run again for their attention.
        manifest: Complete.
    """
    answers = findings.answers
    histogram = count_differences(answers.differences, findings.bound)
    attended = None
    if isinstance(answers, CaptionerAnswers) and manifest.captioner.attention_rows:
        attended = attended_pictures(answers, files, manifest)
    return (
        _environment()
        .get_template(_TEMPLATE)
        .render(
            findings=findings,
            manifest=manifest,
            is_captioner=manifest.task == pb.TASK_CAPTIONER,
            copy=_copy(manifest),
            decoder_file=DECODER_FILE,
            rescored=RESCORED if DECODER_FILE in manifest.stored else None,
            figures=list(figures(manifest, answers)),
            facts=list(facts(manifest, findings.notes)),
            parity=parity_rows(manifest),
            histogram=histogram,
            drawing=draw(histogram) if histogram.total else None,
            worst=[
                (title, pictures)
                for title, typical in (("Of the kind that the model is meant for", True), ("Synthetic", False))
                if (pictures := worst_pictures(answers, manifest, typical=typical))
            ],
            attended=attended,
            sizes=list(sizes(manifest)),
            speeds=list(speed_rows(manifest)),
        )
    )


def _copy(manifest: pb.Manifest) -> str:
    """Name what is compared with the network."""
    if not manifest.stored:
        return "ONNX"
    precision = precision_name(max(manifest.stored.values()))
    return f"ONNX, decoder in {precision}" if list(manifest.stored) == [DECODER_FILE] else f"ONNX, {precision}"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("resonnx_export.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"scientific": scientific, "precision_name": precision_name}
    return environment
