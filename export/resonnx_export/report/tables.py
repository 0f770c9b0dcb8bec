"""The rows of the report's tables, from the manifest."""

from collections.abc import Iterator
from typing import NamedTuple

from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.manifest import CLASSIFIER_FILE, DECODER_FILE, ENCODER_FILE, onnx_files

from resonnx_export.pictures.recipe import describe
from resonnx_export.proof.predictions import Predictions
from resonnx_export.tasks import task_of
from resonnx_export.wording import precision_name, provider_name, scientific, size


class ParityRow(NamedTuple):
    """All comparisons of one tensor, or of captions (no tensor): their number, and the one nearest its bound.

    `identical` counts pictures with the same prediction; None for a tensor without predictions.
    """

    file: str
    tensor: str
    comparisons: int
    pictures: int
    identical: int | None
    nearest: pb.ParityCheck
    passed: bool


def parity_rows(manifest: pb.Manifest) -> list[ParityRow]:
    """Group the checks by tensor, in their order."""
    outputs = task_of(manifest).outputs
    groups: dict[tuple[str, str], list[pb.ParityCheck]] = {}
    for check in manifest.parity.checks:
        # Names are "model.onnx, batch 3, optimised: logits", captions' without a tensor.
        groups.setdefault((check.name.partition(",")[0], check.name.partition(": ")[2]), []).append(check)
    return [
        ParityRow(
            file,
            tensor,
            len(checks),
            sum(check.pictures for check in checks),
            sum(check.identical for check in checks) if tensor in outputs else None,
            max(checks, key=lambda check: check.max_abs_difference / check.bound),
            all(check.max_abs_difference <= check.bound for check in checks),
        )
        for (file, tensor), checks in groups.items()
    ]


def facts(manifest: pb.Manifest, notes: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
    """Yield terms and descriptions of the exported model."""
    source = manifest.source
    yield "Architecture", [f"{source.architecture}, {source.parameters:,} parameters"]
    yield "Layout", [source.layout]
    files = [
        f"{name}, {size(count)}, sha256 {sha256}"
        for name, count, sha256 in zip(source.file_names, source.file_bytes, source.sha256, strict=True)
    ]
    yield "Made from", files or ["a module in memory"]
    yield from ((term, [description]) for term, description in task_of(manifest).facts(manifest))
    if manifest.HasField("input"):
        yield "Pictures", [describe(manifest.input)]
    yield "Stored in", [", ".join(f"{file} in {_stored(manifest, file)}" for file in onnx_files(manifest))]
    drift = manifest.drift
    yield "Reference for drift", [f"{drift.pictures} pictures" if drift.pictures else f"none: {drift.absent}"]
    if notes:
        yield "Notes", list(notes)


def _stored(manifest: pb.Manifest, file: str) -> str:
    precision = precision_name(manifest.stored.get(file, pb.PRECISION_FP32))
    if file != DECODER_FILE or file not in manifest.stored:
        return precision
    return f"{precision} (its output layer, with fp32 rescoring of the best words)"


def sizes(manifest: pb.Manifest) -> Iterator[tuple[str, str, str]]:
    """Yield each file with its size and its share of the checkpoint; the checkpoint first, if there is one."""
    source = manifest.source
    whole = sum(source.file_bytes)
    for name, count in zip(source.file_names, source.file_bytes, strict=True):
        yield name, size(count), "checkpoint"
    for name, count in sorted(manifest.file_bytes.items()):
        yield name, size(count), f"{100 * count / whole:.0f} % of the checkpoint" if whole else ""


def figures(manifest: pb.Manifest, predictions: Predictions) -> Iterator[tuple[str, str, str]]:
    """Yield titles, values and details of the numbers at the head of the page."""
    kind = predictions.pictures.kind
    if manifest.parity.agreements:
        agreement = manifest.parity.agreements[0]
        difference, allowed = (
            value / agreement.max_abs_reference for value in (agreement.max_abs_difference, agreement.bound)
        )
        yield ("Largest difference", scientific(difference), f"of the largest value; {scientific(allowed)} is allowed")
        yield ("Same prediction", f"{agreement.identical} of {agreement.pictures}", kind)
        if agreement.HasField("right"):
            right, before = (100 * n / agreement.pictures for n in (agreement.right, agreement.right_in_fp32))
            yield ("Correct predictions", f"{right:.1f} %", f"in fp32 {before:.1f} %, of {agreement.pictures} {kind}")
    else:
        check = next(row for row in parity_rows(manifest) if row.tensor == "logits" or row.file == "captions").nearest
        share = check.max_abs_difference / check.bound
        same = len(predictions.changed) - int(predictions.changed.sum())
        yield ("Largest difference", scientific(check.max_abs_difference), f"{100 * share:.2g} % of its bound")
        yield ("Same prediction", f"{same} of {len(predictions.changed)}", kind)
    whole = sum(manifest.source.file_bytes)
    detail = f"the checkpoint has {size(whole)}" if whole else "of ONNX"
    yield ("Size", size(sum(manifest.file_bytes.values())), detail)
    if rates := [
        (batch.batch_size / batch.median_ms, batch.batch_size, speed)
        for speed in manifest.speed.providers
        if speed.file in (CLASSIFIER_FILE, ENCODER_FILE)
        for batch in speed.batches
    ]:
        rate, batch_size, speed = max(rates, key=lambda each: each[0])
        value = f"{1000 * rate:,.0f}" if rate > 0.01 else f"{1000 * rate:.1f}"
        yield ("Pictures per second", value, f"batch {batch_size}, {provider_name(speed)}")
