"""The lines that the command prints after an export."""

from collections.abc import Iterator

from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_export.assumptions.telling import assumption_lines, headline
from resonnx_export.publish.package import REPORT, Exported
from resonnx_export.tasks import task_of
from resonnx_export.wording import milliseconds, precision_name, printable, provider_name, size


def summary_lines(exported: Exported) -> Iterator[str]:
    """Yield the lines of the summary, the folder first."""
    yield from map(printable, _lines(exported))


def _lines(exported: Exported) -> Iterator[str]:
    manifest = exported.manifest
    yield str(exported.folder)
    source = manifest.source
    yield f"  {source.architecture}, {source.parameters:,} parameters, layout {source.layout}"
    yield f"  {headline(manifest)}"
    checks = len(manifest.parity.checks)
    yield f"  parity: {task_of(manifest).summary(manifest.parity)}; {checks} checks passed, damaged copies refused"
    yield from (f"  {note}" for note in exported.notes)
    yield from (f"  {line}" for line in assumption_lines(manifest))
    for bound in manifest.precisions:
        name = precision_name(bound.precision)
        yield f"  {bound.file} may run in {name}: max|difference| <= {bound.max_deviation:.1e} of max|reference|"
    drift = manifest.drift
    yield f"  drift: {f'compared with {drift.pictures} pictures' if drift.pictures else f'none: {drift.absent}'}"
    yield from (f"  {_speed(speed)}" for speed in manifest.speed.providers)
    yield "  " + ", ".join(f"{name} {size(count)}" for name, count in exported.sizes.items())
    yield f"  report: {exported.folder / REPORT}"


def _speed(speed: pb.ProviderSpeed) -> str:
    times = ", ".join(f"batch {batch.batch_size} in {milliseconds(batch.median_ms)}" for batch in speed.batches)
    return f"{speed.file} on {provider_name(speed)}: {speed.refused or times}"
