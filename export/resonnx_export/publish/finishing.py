"""The last stages of every export: measures speed, renders the report and writes the version's folder."""

from pathlib import Path
from typing import Final

from resonnx_server.errors import ModelRefused

from resonnx_export.errors import ParityFailed
from resonnx_export.progress import Progress
from resonnx_export.publish import package
from resonnx_export.publish.package import Exported
from resonnx_export.publish.speed import measure_speed
from resonnx_export.report.page import Result, render_report

# How many stages `finish` has.
STAGES: Final = 3


def finish(result: Result, folder: Path, progress: Progress, *, overwrite: bool) -> Exported:
    """Measure speed, render the report and write the version's folder, MODELS/NAME/VERSION.

    Raises:
        BadInput: The folder cannot be written.
        ParityFailed: No installed provider can run the graphs.
    """
    manifest = result.manifest
    for name, content in result.files.items():
        manifest.file_bytes[name] = len(content)
    progress("measuring speed")
    try:
        manifest.speed.CopyFrom(measure_speed(result.files, manifest, result.golden))
    except ModelRefused as error:
        raise ParityFailed(str(error)) from None
    progress("report")
    report = render_report(result, folder.parent.name, folder.name)
    progress(f"writing {folder}")
    written = package.version_files(result.files, manifest, result.golden, report, result.drift)
    package.write(folder, written, overwrite=overwrite)
    return Exported(folder, manifest, {name: len(content) for name, content in written.items()}, result.notes)
