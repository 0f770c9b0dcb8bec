"""Opens a session of a serving model again, from its files, whose bytes must be those of the load."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from resonnx_server.errors import ModelRefused
from resonnx_server.repository.version import Version
from resonnx_server.runtime.model_files.manifest import VersionFiles, read_version
from resonnx_server.runtime.session import CPU, Array, Session


@dataclass(frozen=True)
class Source:
    """One ONNX file.

    Attributes:
        file: Its name, for messages.
        sha256: Of the bytes that were loaded, hex.
        read: Reads it again, and checks it as at load.
    """

    file: str
    sha256: str
    read: Callable[[], bytes]

    @classmethod
    def of(cls, version: Version, files: VersionFiles, file: str) -> "Source":
        """Return the source of a file of a version with a manifest."""
        return cls(file, files.sum_of(file), lambda: read_version(version.folder.path, version.vouch).files[file])

    @classmethod
    def of_bytes(cls, file: str, content: bytes, read: Callable[[], bytes]) -> "Source":
        """Return the source of a file that was loaded as `content`."""
        return cls(file, hashlib.sha256(content).hexdigest(), read)

    def open_again(self, opener: Callable[[bytes], Session], sizes: Sequence[int]) -> Session:
        """Return another session, ready for batches of `sizes`; `opener` is that of a session of the file.

        Raises:
            ModelRefused: The file is not there or not the same any more, or ONNX Runtime cannot load it.
            Exception: ONNX Runtime's exceptions, which share no base class.
        """
        content = self.read()
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise ModelRefused(f"{self.file} has changed since it was loaded")
        opened = opener(content)
        # Other providers compile at the first run of each size, which must not be taken for a run that hangs.
        for size in sizes if opened.candidate.provider != CPU else ():
            run_zeros(opened, size)
        return opened


def run_zeros(session: Session, rows: int) -> dict[str, Array]:
    """Run `rows` rows of zeros; other free axes have this size, too."""
    shapes = {spec: [axis if isinstance(axis, int) else rows for axis in spec.shape] for spec in session.inputs}
    return session.run({spec.name: np.zeros(shape, spec.dtype) for spec, shape in shapes.items()})
