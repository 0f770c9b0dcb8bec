"""Loads one model version: verify, choose, warm up, and return a Model.

A version that cannot serve raises ModelRefused with a reason that a user can act on.
"""

import logging
from dataclasses import fields
from typing import Any, Final

from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_server.config import ModelSettings, Settings
from resonnx_server.errors import ModelRefused
from resonnx_server.repository import classifiers
from resonnx_server.repository.bare import bare_file
from resonnx_server.repository.captioner import entry as captioners
from resonnx_server.repository.tasks import TaskEntry
from resonnx_server.repository.version import Start, Version
from resonnx_server.repository.video import entry as video_classifiers
from resonnx_server.runtime.model_files.drift_reference import read_drift
from resonnx_server.runtime.model_files.golden_examples import Golden, check_recipe, parse_golden
from resonnx_server.runtime.model_files.manifest import GOLDEN, MANIFEST, VersionFiles, read_version
from resonnx_server.runtime.pictures.options import PictureOptions

_log = logging.getLogger(__name__)

_NO_EFFECT: Final = "a field of config.pbtxt has no effect"

TASKS: Final[dict[pb.Task, TaskEntry[Any]]] = {
    entry.task.kind: entry for entry in (classifiers.ENTRY, captioners.ENTRY, video_classifiers.ENTRY)
}


def load(version: Version) -> Start:
    """Verify, choose and warm up, in seconds, on any thread. Call the result on the event loop to serve.

    Raises:
        ModelRefused: The version must not serve.
    """
    folder = version.folder
    if folder.version == 0:
        raise ModelRefused("the model's folder has no version folder (a number, 1 or more) that can be read")
    version.progress.reach("verifying")
    for ignored in version.settings.declaration.ignored if version.settings.declaration else ():
        _log.warning(_NO_EFFECT, extra={"model": folder.name, "field": ignored})
    if not (folder.path / MANIFEST).exists():
        return bare_file.load(version)
    files, golden = read_verified(version)
    if version.settings.declaration and version.settings.declaration.warm_ups:
        reason = "config.pbtxt: model_warmup has no effect: the golden examples warm the model up"
        _log.warning(_NO_EFFECT, extra={"model": folder.name, "field": reason})
    return TASKS[files.manifest.task].load(version, files, golden)


def read_verified(version: Version) -> tuple[VersionFiles, Golden]:
    """Return the files and golden examples of a version with a manifest, checked. Raises ModelRefused."""
    files = read_version(version.folder.path, version.vouch)
    if GOLDEN not in files.files:
        raise ModelRefused(f"{GOLDEN} is missing, so nothing can be verified")
    golden = parse_golden(files.files[GOLDEN], files.manifest)
    read_drift(files.files, files.manifest)
    # By the manifest's recipe alone: picture options are not part of the export.
    check_recipe(golden, files.manifest.input)
    return files, golden


def picture_options(settings: Settings, own: ModelSettings, recipe: pb.ImageInput) -> PictureOptions:
    """Return the picture options of a model with this recipe: its own settings of the same names, and the server's."""
    return PictureOptions(
        recipe,
        formats=settings.formats,
        max_pixels=settings.max_image_pixels,
        max_side=settings.max_image_side,
        **own.model_dump(include={field.name for field in fields(PictureOptions)}),
    )
