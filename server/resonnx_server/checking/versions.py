"""Checks one version as its load does, up to the measurements: files, golden examples, graph and configuration."""

from dataclasses import dataclass
from functools import partial

from resonnx_server.config import ModelSettings, Settings
from resonnx_server.observe.metrics import Metrics
from resonnx_server.repository.bare import bare_file
from resonnx_server.repository.latency_cache import LatencyCache
from resonnx_server.repository.loader import TASKS, picture_options, read_verified
from resonnx_server.repository.scan import ModelFolder
from resonnx_server.repository.version import Version
from resonnx_server.runtime.machine.host import usable_cores
from resonnx_server.runtime.model_files.manifest import MANIFEST
from resonnx_server.runtime.model_files.signatures import TrustedKeys
from resonnx_server.scheduling.device import Device


@dataclass(frozen=True)
class Checked:
    """A version that the server would serve: its task, and what was found."""

    task: str
    detail: str


def check_version(folder: ModelFolder, own: ModelSettings, server: Settings, trusted: TrustedKeys | None) -> Checked:
    """Check one version.

    Args:
        folder: Its folder.
        own: The settings of its model.
        server: The server's settings.
        trusted: Keys of which one must have signed it; None for none.

    Raises:
        ModelRefused: The server would refuse it.
    """
    cores = usable_cores()
    version = Version(
        folder,
        own,
        Metrics(),
        _no_device,
        cores,
        LatencyCache(None, cores),
        pictures=partial(picture_options, server, own),
        trusted=trusted,
    )
    if not (folder.path / MANIFEST).exists():
        reason = bare_file.open_bare(version).reason
        how = "requests share batches" if reason is None else f"each request runs alone: {reason}"
        return Checked("tensors", f"no {MANIFEST}, so not verified; {how}")
    files, golden = read_verified(version)
    entry = TASKS[files.manifest.task]
    agreeing = entry.agreeing(version, files, golden)
    return Checked(entry.task.name, f"golden examples agree on {', '.join(agreeing)}")


def _no_device(provider: str) -> Device:
    raise AssertionError(f"a check serves nothing on {provider}")
