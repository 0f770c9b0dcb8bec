"""Loads one model version: verify → choose → warm → a Model that serves.

Every way in which a version cannot serve ends in ModelRefused with a reason that a user can act on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_server.config import Settings
from resonnx_server.errors import ModelRefused
from resonnx_server.observe.metrics import Metrics
from resonnx_server.repository import bare, captioners, classifiers
from resonnx_server.repository.latency_cache import LatencyCache
from resonnx_server.repository.picture_settings import picture_options
from resonnx_server.repository.progress import Progress
from resonnx_server.repository.scan import ModelFolder
from resonnx_server.repository.version import Start, Version
from resonnx_server.runtime.model_files.golden_examples import check_recipe, parse_golden
from resonnx_server.runtime.model_files.manifest import GOLDEN, MANIFEST, SUMS, read_version
from resonnx_server.scheduling.device import Device


@dataclass(frozen=True)
class Loader:
    """Loads models.

    Attributes:
        device_for: The device that runs a provider's work.
        threads: Threads of one run.
    """

    settings: Settings
    metrics: Metrics
    device_for: Callable[[str], Device]
    threads: int
    cache: LatencyCache

    def load(self, found: ModelFolder, progress: Progress) -> Start:
        """Verify, choose and warm (seconds; any thread). Call the result on the event loop to serve.

        Args:
            found: The model.
            progress: Is told how far it is.

        Raises:
            ModelRefused: The version must not serve; says why.
        """
        if found.version == 0:
            raise ModelRefused("the model's folder has no version folder (a number, 1 or more) that can be read")
        progress.reach("verifying")
        version = Version(
            found,
            self.settings.for_model(found.name),
            self.metrics,
            self.device_for,
            self.threads,
            self.cache,
            progress,
            partial(picture_options, self.settings, found.name),
        )
        if not (found.folder / MANIFEST).exists() and not (found.folder / SUMS).exists():
            return bare.load(version)
        files = read_version(found.folder)
        if GOLDEN not in files.files:
            raise ModelRefused(f"{GOLDEN} is missing, so nothing can be verified")
        golden = parse_golden(files.files[GOLDEN], files.manifest)
        # By the manifest's recipe alone: the settings' options are no part of what was exported.
        check_recipe(golden, files.manifest.input)
        if files.manifest.task == pb.TASK_CLASSIFIER:
            return classifiers.load(version, files, golden)
        return captioners.load(version, files, golden)
