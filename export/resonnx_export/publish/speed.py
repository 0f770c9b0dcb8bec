"""Measures how fast the exported graphs run here, on each provider that agrees with the golden examples."""

import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.machine.host import usable_cores
from resonnx_server.runtime.model_files.golden_examples import Golden
from resonnx_server.runtime.model_files.manifest import DECODER_FILE, onnx_files

from resonnx_export.proof.timing import PICTURE_BATCHES, STEP_BATCHES, repeated, timed
from resonnx_export.publish.providers import verified_runs
from resonnx_export.tasks import task_of

_PROCESSORS: Final = Path("/proc/cpuinfo")
_NVIDIA: Final = Path("/proc/driver/nvidia/gpus")


def measure_speed(files: Mapping[str, bytes], manifest: pb.Manifest, golden: Golden) -> pb.SpeedReport:
    """Time each of a model's ONNX files on each provider; providers that disagree are listed with the reason.

    Raises:
        ModelRefused: As verified_runs.
    """
    task = task_of(manifest)
    report = pb.SpeedReport(processor=processor(), accelerators=accelerators(), threads=usable_cores())
    for file in onnx_files(manifest):
        for run in verified_runs(files, manifest, file, golden):
            provider = report.providers.add(file=file, provider=run.provider.provider, precision=run.provider.precision)
            if run.graphs is None or not run.verdict.passed:
                provider.refused = run.verdict.detail
                continue
            for rows in STEP_BATCHES if file == DECODER_FILE else PICTURE_BATCHES:
                batch = task.batch_run(run.graphs, file, manifest, repeated(golden.images, rows))
                provider.batches.append(timed(batch, rows))
    return report


def processor(listing: Path = _PROCESSORS) -> str:
    """Return the processor's model name, or its architecture if the name is unknown."""
    return _field(listing, "model name") or platform.processor() or platform.machine()


def accelerators(folder: Path = _NVIDIA) -> list[str]:
    """Return the model names of NVIDIA GPUs; none without the driver."""
    names = (_field(path, "Model") for path in sorted(folder.glob("*/information")))
    return [name for name in names if name]


def _field(path: Path, name: str) -> str | None:
    """Return the value of the first line `name : value`."""
    try:
        match = re.search(rf"^{name}\s*:\s*(.+?)\s*$", path.read_text(errors="replace"), re.MULTILINE)
    except OSError:
        return None
    return match[1] if match else None
