"""What every export ends with: sizes, measured speed, the report, and the version's folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.model_files.golden_examples import Golden

from resonnx_export.errors import ParityFailed
from resonnx_export.progress import Progress
from resonnx_export.proof.predictions import Answers
from resonnx_export.proof.speed import measure_speed
from resonnx_export.publish import package
from resonnx_export.publish.package import Exported
from resonnx_export.report import Findings, render_report

# How often `finish` tells.
STAGES: Final = 3


@dataclass(frozen=True)
class Result:
    """What the export came to.

    Attributes:
        files: The ONNX files by name.
        manifest: All but sizes and speed.
        golden: Golden examples.
        answers: What the final graphs were judged by.
        bound: What the answers' differences may be.
        notes: For the person who exports.
    """

    files: Mapping[str, bytes]
    manifest: pb.Manifest
    golden: Golden
    answers: Answers
    bound: float
    notes: tuple[str, ...]


def finish(result: Result, folder: Path, tell: Progress, *, overwrite: bool) -> Exported:
    """Measure, report and write.

    Raises:
        BadInput: The folder cannot be written.
        ParityFailed: Nothing here can run the graphs.
    """
    manifest = result.manifest
    for name, content in result.files.items():
        manifest.file_bytes[name] = len(content)
    tell("measuring speed")
    try:
        manifest.speed.CopyFrom(measure_speed(result.files, manifest, result.golden))
    except ModelRefused as error:
        raise ParityFailed(str(error)) from None
    tell("report")
    findings = Findings(folder.parent.name, folder.name, result.answers, result.bound, result.notes)
    report = render_report(findings, result.files, manifest)

    tell(f"writing {folder}")
    written = package.version_files(result.files, manifest, result.golden, report)
    package.write(folder, written, overwrite=overwrite)
    return Exported(folder, manifest, {name: len(content) for name, content in written.items()}, result.notes)
