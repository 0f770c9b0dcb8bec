"""Renders the report: all values are computed first, the template only places them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.golden_examples import Golden
from resonnx_server.runtime.model_files.manifest import DECODER_FILE

from resonnx_export.assumptions.telling import ANSWERED, headline, reference_name
from resonnx_export.precision.rescored import RESCORED
from resonnx_export.proof.predictions import CaptionerPredictions, Comparison
from resonnx_export.report.attention import attended_pictures
from resonnx_export.report.hardest import hardest_pictures
from resonnx_export.report.histogram import histogram
from resonnx_export.report.tables import facts, figures, parity_rows, sizes
from resonnx_export.tasks import task_of
from resonnx_export.wording import milliseconds, precision_name, provider_name, scientific

_TEMPLATE: Final = "report.html"


@dataclass(frozen=True)
class Result:
    """The result of an export, before it is written.

    Attributes:
        files: The ONNX files by name.
        manifest: Without sizes and speed until `finish` has measured them.
        golden: Golden examples.
        comparison: Of the final graphs with PyTorch.
        notes: Lines for the user.
        drift: The content of drift.npz, if there are reference pictures.
    """

    files: Mapping[str, bytes]
    manifest: pb.Manifest
    golden: Golden
    comparison: Comparison
    notes: tuple[str, ...]
    drift: bytes | None = None


def render_report(result: Result, name: str, version: str) -> str:
    """Return report.html of a model's version; the manifest must be complete."""
    manifest, predictions = result.manifest, result.comparison.predictions
    attended = None
    if isinstance(predictions, CaptionerPredictions) and manifest.captioner.attention_rows:
        attended = attended_pictures(predictions, result.files, manifest)
    environment = Environment(
        loader=PackageLoader("resonnx_export.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {each.__name__: each for each in (milliseconds, precision_name, provider_name, scientific)}
    return environment.get_template(_TEMPLATE).render(
        name=name,
        version=version,
        pictures=predictions.pictures,
        manifest=manifest,
        task=task_of(manifest),
        headline=headline(manifest),
        reference=reference_name(manifest),
        onnx=_onnx(manifest),
        decoder_file=DECODER_FILE,
        answered=ANSWERED,
        rescored=RESCORED if DECODER_FILE in manifest.stored else None,
        figures=list(figures(manifest, predictions)),
        facts=list(facts(manifest, result.notes)),
        parity=parity_rows(manifest),
        histogram=histogram(predictions.differences, result.comparison.bound),
        hardest=[
            (title, shown)
            for title, typical in (("Typical pictures", True), ("Synthetic pictures", False))
            if (shown := hardest_pictures(predictions, manifest, typical=typical))
        ],
        attended=attended,
        sizes=list(sizes(manifest)),
    )


def _onnx(manifest: pb.Manifest) -> str:
    """Name the ONNX model with its precision."""
    if not manifest.stored:
        return "ONNX"
    precision = precision_name(max(manifest.stored.values()))
    return f"ONNX, decoder in {precision}" if list(manifest.stored) == [DECODER_FILE] else f"ONNX, {precision}"
