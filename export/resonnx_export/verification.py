"""Checks an existing version again: its files, its predictions on each installed provider, and its checkpoint."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.model_files.golden_examples import Golden, check_recipe, parse_golden
from resonnx_server.runtime.model_files.manifest import GOLDEN, SUMS, VersionFiles, onnx_files, read_version

from resonnx_export.answers.pictures import pixels_of, preprocessing_note
from resonnx_export.answers.recorded import Answers
from resonnx_export.assumptions.telling import assumption_lines, headline, reference_name
from resonnx_export.checkpoints.files import SourceFile
from resonnx_export.errors import BadInput, ParityFailed
from resonnx_export.graphs.row_graphs import check_row_graphs
from resonnx_export.layouts.recognised import Network
from resonnx_export.module import recognise_adapter, recognise_module
from resonnx_export.options import Activation
from resonnx_export.publish.package import versions
from resonnx_export.publish.providers import verified_runs
from resonnx_export.sources.source import WEIGHTS
from resonnx_export.tasks import task_of
from resonnx_export.tasks.answers import judge_graphs, reduced_rule
from resonnx_export.tasks.disagreement import next_commands, searched_explanation
from resonnx_export.user_code.opened import Code, open_code
from resonnx_export.user_code.video import as_video_network


def verify_version(
    folder: Path, checkpoint: Sequence[Path], code: Code | None = None, expect: Answers | None = None
) -> Iterator[str]:
    """Check a version's folder, MODELS/NAME/VERSION, and yield a line for each check that passes.

    With the checkpoint's files, also compare with PyTorch; with `code`, with the user's module, whose code runs; with
    answers of the user's own model, with those.

    Raises:
        BadInput: The folder is damaged or not an export, the checkpoint is not the one that it was made from, or the
            answers are not for such a model.
        ParityFailed: Its predictions are not within its bounds.
    """
    if (numbers := versions(folder)) and not (folder / SUMS).exists():
        raise BadInput(f"{folder} is a model's folder; give a version's, {folder / str(numbers[-1])}")
    try:
        version = read_version(folder)
        golden = parse_golden(version.files[GOLDEN], version.manifest)
        check_recipe(golden, version.manifest.input)
    except (ModelRefused, OSError) as error:
        raise BadInput(f"{folder}: {error}") from None
    except KeyError as missing:
        raise BadInput(f"{folder}: {missing} is missing") from None
    source = version.manifest.source
    yield f"{folder}: {source.architecture}, layout {source.layout}; checksums, manifest and pictures are in order"
    yield f"  when exported: {headline(version.manifest)}"
    yield from (f"  {line}" for line in assumption_lines(version.manifest))
    for file in onnx_files(version.manifest):
        yield from _verify_providers(version, file, golden)
    yield from check_row_graphs(version.files)
    network = _recognised(version.manifest, checkpoint, code) if checkpoint or code is not None else None
    if expect is not None:
        yield from _compare_answers(folder, version, expect, network, checkpoint)
    if network is not None:
        yield from _compare(version, golden, network)


def _recognised(manifest: pb.Manifest, checkpoint: Sequence[Path], code: Code | None) -> Network:
    """Return the network that the version was exported from. Raises BadInput if these are other files."""
    network, sources = _read(manifest, checkpoint, code)
    if sorted(source.sha256 for source in sources) != sorted(manifest.source.sha256):
        names = ", ".join(source.name for source in sources) or "the code alone"
        raise BadInput(f"{names}: this version was exported from other files, by sha256")
    return network


def _read(manifest: pb.Manifest, checkpoint: Sequence[Path], code: Code | None) -> tuple[Network, Sequence[SourceFile]]:
    """Return a network and the files that it was read from."""
    if code is None:
        if manifest.verified_against == pb.REFERENCE_USER_CODE:
            raise BadInput("this version was exported from the user's code: add --module TARGET, which runs it")
        return task_of(manifest).recognise(manifest, checkpoint)
    chosen = next((each.value for each in manifest.assumptions if each.name == WEIGHTS), None)
    code = replace(code, weights=chosen)
    if manifest.HasField("captioner"):
        opened = open_code(code, None)
        return recognise_adapter(opened, manifest.input, manifest.captioner.vocabulary), opened.files
    if manifest.HasField("video_classifier"):
        opened = open_code(code, None)
        return as_video_network(opened.module, manifest.input.height, manifest.input.width), opened.files
    labels = len(manifest.classifier.labels)
    opened = open_code(code, labels)
    name = pb.ClassifierSpec.Activation.Name(manifest.classifier.activation).removeprefix("ACTIVATION_").lower()
    return recognise_module(opened, manifest.input, labels, cast("Activation", name)).network, opened.files


def _verify_providers(version: VersionFiles, file: str, golden: Golden) -> Iterator[str]:
    """Compare one graph with the golden examples on each installed provider.

    The server does not use a provider that disagrees; the version fails if all do.
    """
    try:
        runs = list(verified_runs(version.files, version.manifest, file, golden))
    except ModelRefused as error:
        raise ParityFailed(f"{file}: {error}") from None
    if runs and not any(run.verdict.passed for run in runs):
        raise ParityFailed(f"{file} on {runs[0].provider}: {runs[0].verdict.detail}")
    for run in runs:
        disagrees = "" if run.verdict.passed else "disagrees, so the server does not use it: "
        yield f"  {file} on {run.provider}: {disagrees}{run.verdict.detail}"


def _compare_answers(
    folder: Path,
    version: VersionFiles,
    answers: Answers,
    network: Network | None,
    checkpoint: Sequence[Path],
) -> Iterator[str]:
    """Compare the graphs with the user's answers; where they differ, say why, as far as the network is at hand."""
    manifest = version.manifest
    judged = judge_graphs(version.files, manifest, answers)
    rule = reduced_rule(manifest)
    if not judged.passed:
        if network is None:
            why = next_commands(folder, manifest, answers)
        else:
            why = searched_explanation(network, manifest, checkpoint, answers)
        details = (f"the model does not give your answers in {answers.name}: {judged.detail}", rule, why)
        raise ParityFailed("; ".join(filter(None, details)), judged.check)
    yield f"  {judged.check.name}: {judged.detail}"
    if rule:
        yield f"  {rule}"
    if note := preprocessing_note(answers, pixels_of(answers, version.manifest.input), version.manifest.input):
        yield f"  {note}"


def _compare(version: VersionFiles, golden: Golden, network: Network) -> Iterator[str]:
    """Compare with PyTorch as the export did; a quantised version on the golden pictures, within its bounds."""
    files, manifest = version.files, version.manifest
    task = task_of(manifest)
    if not task.predicts(network, manifest, golden):
        raise ParityFailed(f"{GOLDEN} does not hold the predictions of {reference_name(manifest)}")
    if manifest.stored:
        yield "  the golden examples are PyTorch's predictions, in float32"
        yield from task.compare_quantised(files, network, manifest, golden)
    else:
        report = task.prove(files, network, manifest).report
        checks = f"{len(report.checks)} checks passed, damaged copies refused"
        yield f"  equal to {reference_name(manifest)}'s: {checks}; {task.summary(report)}"
