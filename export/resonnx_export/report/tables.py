"""What the page's tables hold, out of the manifest."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.manifest import DECODER_FILE, onnx_files

from resonnx_export.pictures.recipes import describe
from resonnx_export.proof.predictions import Answers
from resonnx_export.wording import milliseconds, precision_name, provider_name, scientific, size

# Tensors (no name: captions) whose largest entry is an answer, so that "the same answer" means something.
_ANSWERS: Final = ("logits", "log_probs", "first_log_probs", "")
_SHOWN_NAMES: Final = 3
_LONGEST_NAME: Final = 60


@dataclass(frozen=True)
class Figure:
    """One number at the head of the page: what it is of, the number, and what to make of it."""

    title: str
    value: str
    detail: str


@dataclass(frozen=True)
class ParityRow:
    """All comparisons of one tensor, by the one that comes nearest its bound.

    Attributes:
        file: Or "captions".
        tensor: Empty of captions.
        comparisons: How many.
        pictures: In all of them.
        identical: With the same answer; None where a tensor is no answer.
        worst: The one that is shown.
        passed: Whether all are within their bounds.
    """

    file: str
    tensor: str
    comparisons: int
    pictures: int
    identical: int | None
    worst: pb.ParityCheck
    passed: bool


def parity_rows(manifest: pb.Manifest) -> list[ParityRow]:
    """Sum up the checks by what they compared, in their order."""
    groups: dict[tuple[str, str], list[pb.ParityCheck]] = {}
    for check in manifest.parity.checks:
        # The proof names them "model.onnx, batch 3, optimised: logits", captions without a tensor.
        groups.setdefault((check.name.partition(",")[0], check.name.partition(": ")[2]), []).append(check)
    return [
        ParityRow(
            file,
            tensor,
            len(checks),
            sum(check.pictures for check in checks),
            sum(check.identical for check in checks) if tensor in _ANSWERS else None,
            max(checks, key=lambda check: check.max_abs_difference / check.bound),
            all(check.max_abs_difference <= check.bound for check in checks),
        )
        for (file, tensor), checks in groups.items()
    ]


def facts(manifest: pb.Manifest, notes: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
    """Yield what was exported, as terms and lines."""
    source = manifest.source
    yield "Architecture", [f"{source.architecture}, {source.parameters:,} parameters"]
    yield "Layout", [source.layout]
    files = [
        f"{name}, {size(count)}, sha256 {sha256}"
        for name, count, sha256 in zip(source.file_names, source.file_bytes, source.sha256, strict=True)
    ]
    yield "Made from", files or ["a module in memory"]
    if manifest.task == pb.TASK_CAPTIONER:
        yield "Vocabulary", [_names("words", list(manifest.captioner.vocabulary))]
        yield "Captions", [_decoding(manifest.captioner)]
    else:
        yield "Classes", [_names("classes", list(manifest.classifier.labels))]
    yield "Pictures", [describe(manifest.input)]
    yield "Stored in", [", ".join(f"{file} in {_stored(manifest, file)}" for file in onnx_files(manifest))]
    if notes:
        yield "Notes", list(notes)


def _stored(manifest: pb.Manifest, file: str) -> str:
    precision = precision_name(manifest.stored.get(file, pb.PRECISION_FP32))
    if file != DECODER_FILE or file not in manifest.stored:
        return precision
    return f"{precision} (its output layer; best words scored again in fp32)"


def _names(of_what: str, names: list[str]) -> str:
    short = [name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…" for name in names]
    if len(short) > 2 * _SHOWN_NAMES:
        short = [*short[:_SHOWN_NAMES], "…", short[-1]]
    return f"{len(names):,} {of_what}: {', '.join(short)}"


def _decoding(spec: pb.CaptionerSpec) -> str:
    how = "greedy" if spec.beam_width <= 1 else f"a beam of {spec.beam_width}"
    return f"{how}, at most {spec.max_tokens} tokens; compared here as greedy decoding writes them"


def sizes(manifest: pb.Manifest) -> Iterator[tuple[str, str, str]]:
    """Yield each file with its size and its share of the checkpoint; the checkpoint first, where there is one."""
    source = manifest.source
    whole = sum(source.file_bytes)
    for name, count in zip(source.file_names, source.file_bytes, strict=True):
        yield name, size(count), "checkpoint"
    for name, count in sorted(manifest.file_bytes.items()):
        yield name, size(count), f"{100 * count / whole:.0f} % of the checkpoint" if whole else ""


def figures(manifest: pb.Manifest, answers: Answers) -> Iterator[Figure]:
    """Yield what a reader wants to know first."""
    kind = answers.pictures.kind
    if manifest.parity.agreements:
        agreement = manifest.parity.agreements[0]
        difference, allowed = (
            value / agreement.max_abs_reference for value in (agreement.max_abs_difference, agreement.bound)
        )
        yield Figure(
            "Largest difference", scientific(difference), f"of the largest value; {scientific(allowed)} is allowed"
        )
        yield Figure("Same answer", f"{agreement.identical} of {agreement.pictures}", kind)
        if agreement.HasField("right"):
            right, before = (100 * n / agreement.pictures for n in (agreement.right, agreement.right_in_fp32))
            yield Figure("Right answers", f"{right:.1f} %", f"in fp32 {before:.1f} %, of {agreement.pictures} {kind}")
    else:
        row = next(row for row in parity_rows(manifest) if row.tensor == "logits" or row.file == "captions")
        share = row.worst.max_abs_difference / row.worst.bound
        same = len(answers.changed) - int(answers.changed.sum())
        yield Figure(
            "Largest difference", scientific(row.worst.max_abs_difference), f"{100 * share:.2g} % of its bound"
        )
        yield Figure("Same answer", f"{same} of {len(answers.changed)}", kind)
    whole = sum(manifest.source.file_bytes)
    detail = f"the checkpoint has {size(whole)}" if whole else "of ONNX"
    yield Figure("Size", size(sum(manifest.file_bytes.values())), detail)
    if rates := [
        (batch.batch_size / batch.median_ms, batch.batch_size, speed)
        for speed in manifest.speed.providers
        if speed.file != DECODER_FILE
        for batch in speed.batches
    ]:
        rate, batch_size, speed = max(rates, key=lambda each: each[0])
        value = f"{1000 * rate:,.0f}" if rate > 0.01 else f"{1000 * rate:.1f}"
        yield Figure("Pictures a second", value, f"{batch_size} at once, {provider_name(speed)}")


@dataclass(frozen=True)
class SpeedRow:
    """One batch size of one file on one provider, in words; only `refused` where it would not be chosen."""

    file: str
    provider: str
    batch: str = ""
    median: str = ""
    spread: str = ""
    rate: str = ""
    refused: str = ""


def speed_rows(manifest: pb.Manifest) -> Iterator[SpeedRow]:
    """Yield the speed table, file by file."""
    for speed in manifest.speed.providers:
        if speed.refused:
            yield SpeedRow(speed.file, provider_name(speed), refused=speed.refused)
        of_what = "row" if speed.file == DECODER_FILE else "picture"
        for batch in speed.batches:
            yield SpeedRow(
                speed.file,
                provider_name(speed),
                f"{batch.batch_size} {of_what}{'s' if batch.batch_size > 1 else ''}",
                milliseconds(batch.median_ms),
                f"{milliseconds(batch.lower_quartile_ms)} to {milliseconds(batch.upper_quartile_ms)}",
                f"{1000 * batch.batch_size / batch.median_ms:,.0f}",
            )
