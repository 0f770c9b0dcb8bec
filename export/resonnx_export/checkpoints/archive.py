"""Opens a zip archive of torch.save that may be hostile: sizes are checked before anything is unpacked."""

import zipfile
from typing import IO, Final

import torch
from torch import Tensor

from resonnx_export.errors import BadInput

# torch.save does not compress, so an archive hardly unpacks to more than its size.
_UNPACKED_ALLOWANCE: Final = 64 << 20
# zipfile reads the whole directory, at 700 bytes of memory per entry; a tensor is one entry.
_MAX_DIRECTORY: Final = 16 << 20
_MAX_PICKLE: Final = 256 << 20
# Bytes unpacked at once.
_PIECE: Final = 16 << 20
_PICKLE: Final = "data.pkl"
_PROGRAM: Final = (
    "a program with its weights; export it with: resonnx-export module FILE --labels LABELS --repository models --name "
    "NAME, which runs the program; or save the model's state_dict() and export that"
)


class Archive:
    """The pickle and the storages of a zip file of torch.save, which must stay open.

    Raises:
        BadInput: Another kind of file, or too large when unpacked; the message follows the file's name.
        Exception: zipfile's own, if the archive is damaged.
    """

    def __init__(self, file: IO[bytes]) -> None:
        if _directory_bytes(file) > _MAX_DIRECTORY:
            raise BadInput("is a zip archive of more entries than any checkpoint has")
        self._zip = zipfile.ZipFile(file)
        size, unpacked = file.seek(0, 2), sum(entry.file_size for entry in self._zip.infolist())
        if unpacked > size + _UNPACKED_ALLOWANCE:
            raise BadInput(f"has {size:,} bytes and would unpack to {unpacked:,}: it is no checkpoint")
        names = self._zip.namelist()
        self._root = next((name.removesuffix(_PICKLE) for name in names if name.endswith(f"/{_PICKLE}")), "")
        _refuse_programs(names, self._root)
        if f"{self._root}byteorder" in names and self.read("byteorder").numpy().tobytes() != b"little":
            raise BadInput("was written by a big-endian machine, which is not read")

    def pickle(self) -> bytes:
        """Return the pickle."""
        if self._zip.getinfo(f"{self._root}{_PICKLE}").file_size > _MAX_PICKLE:
            raise BadInput("holds a pickle larger than any checkpoint's")
        return self.read(_PICKLE).numpy().tobytes()

    def read(self, name: str) -> Tensor:
        """Return an entry's bytes, uint8, after checking their checksum."""
        entry = self._zip.getinfo(f"{self._root}{name}")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BadInput("is a zip archive compressed in a way that torch.save never does")
        if entry.CRC == 0:
            # Not written with torch.serialization.set_crc32_options(False).
            del entry.CRC
        content = torch.empty(entry.file_size, dtype=torch.uint8)
        target, done = content.numpy(), 0
        with self._zip.open(entry) as stream:
            while piece := stream.read(_PIECE):
                target[done : done + len(piece)] = memoryview(piece)
                done += len(piece)
        if done < len(target):
            raise zipfile.BadZipFile(f"{name} is cut short")
        return content


def _refuse_programs(names: list[str], root: str) -> None:
    if f"{root}constants.pkl" in names:
        raise BadInput(f"is a TorchScript archive: {_PROGRAM}")
    if any(name.endswith(("serialized_exported_program.json", "/archive_format")) for name in names):
        raise BadInput(f"is a torch.export archive: {_PROGRAM}")
    if not root:
        raise BadInput("is a zip archive, but was not written by torch.save")


def _directory_bytes(file: IO[bytes]) -> int:
    """Return the length in bytes of the directory that zipfile will read; 0 if there is none."""
    size = file.seek(0, 2)
    file.seek(max(0, size - (1 << 16) - 100))
    tail = file.read()
    end = tail.rfind(b"PK\5\6")
    if end < 0 or len(tail) < end + 22:
        return 0
    if end >= 76 and tail[end - 76 : end - 72] == b"PK\6\6":
        # zipfile prefers the 64-bit record.
        return int.from_bytes(tail[end - 36 : end - 28], "little")
    return int.from_bytes(tail[end + 12 : end + 16], "little")
