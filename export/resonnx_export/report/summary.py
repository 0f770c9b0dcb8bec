"""What an export tells when it is done: where it is, how equal it is, how fast and how large."""

from collections.abc import Iterator

from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_export.publish.package import REPORT, Exported
from resonnx_export.wording import milliseconds, precision_name, provider_name, size


def summary_lines(exported: Exported) -> Iterator[str]:
    """Yield the lines of the summary, the folder first."""
    manifest = exported.manifest
    yield str(exported.folder)
    source = manifest.source
    yield f"  {source.architecture}, {source.parameters:,} parameters, layout {source.layout}"
    yield f"  parity: {_parity(manifest)}"
    yield from (f"  {note}" for note in exported.notes)
    for bound in manifest.precisions:
        name = precision_name(bound.precision)
        yield f"  {bound.file} may run in {name}: max|difference| <= {bound.max_deviation:.1e} of max|reference|"
    yield from (f"  {_speed(speed)}" for speed in manifest.speed.providers)
    yield "  " + ", ".join(f"{name} {size(count)}" for name, count in exported.sizes.items())
    yield f"  report: {exported.folder / REPORT}"


def _parity(manifest: pb.Manifest) -> str:
    checks = manifest.parity.checks
    told = f"{len(checks)} checks passed, damaged copies refused"
    if manifest.task == pb.TASK_CLASSIFIER:
        worst = max(
            check.max_abs_difference / max(check.max_abs_reference, 1e-30) for check in checks if "logits" in check.name
        )
        return f"logits within {worst:.1e} of max|reference|; {told}"
    captions = [check for check in checks if check.name.startswith("captions")]
    pictures, identical = sum(check.pictures for check in captions), sum(check.identical for check in captions)
    ties = f", {pictures - identical} differ at a near-tie" if identical < pictures else ""
    return f"{identical} of {pictures} captions identical word by word{ties}; {told}"


def _speed(speed: pb.ProviderSpeed) -> str:
    told = speed.refused or ", ".join(
        f"{batch.batch_size} at once in {milliseconds(batch.median_ms)}" for batch in speed.batches
    )
    return f"{speed.file} on {provider_name(speed)}: {told}"
