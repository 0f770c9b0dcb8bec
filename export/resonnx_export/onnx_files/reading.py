"""Reads an ONNX file with its external data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx
from google.protobuf.message import DecodeError
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.model_files.constants.check import check_constants
from resonnx_server.runtime.model_files.external_data import with_external_data
from resonnx_server.runtime.model_files.files import NotReadable, read_inside, read_regular

from resonnx_export.checkpoints.files import SourceFile, identity
from resonnx_export.errors import BadInput

# ONNX Runtime has no older operators.
OLDEST_OPSET: Final = 7


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file.

    Attributes:
        content: The file with its external data inside.
        model: The same, parsed.
        files: The file itself, then those with external data.
    """

    content: bytes
    model: onnx.ModelProto
    files: tuple[SourceFile, ...]

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators."""
        return max((each.version for each in self.model.opset_import if each.domain in ("", "ai.onnx")), default=1)


def read_onnx(path: Path) -> OnnxFile:
    """Read an ONNX file, and its external data from its own folder.

    Raises:
        BadInput: It cannot be read, is not ONNX, or too old; or a file with external data is missing, a link, or
            outside the folder; or its constants would be too large.
    """
    files: list[SourceFile] = []

    def told(file: Path, data: bytes) -> bytes:
        files.append(identity(file.name, data))
        return data

    def beside(name: str, max_bytes: int) -> bytes:
        what = f"{path.name}: its external data {name[:200]!r}"
        try:
            return told(path.parent / name, read_inside(path.parent, name, max_bytes))
        except FileNotFoundError:
            raise BadInput(f"{what} is missing: put that file beside it") from None
        except OSError as error:
            raise BadInput(f"{what} cannot be read: {error.strerror}") from None
        except NotReadable as error:
            raise BadInput(f"{what} {error}".replace("the version's folder", "the file's folder")) from None

    try:
        content = with_external_data(path.name, told(path, read_regular(path)), beside)
        check_constants(content)
        model = onnx.load_model_from_string(content)
    except (NotReadable, ModelRefused) as error:
        raise BadInput(f"{path.name}: {error}") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    except DecodeError:
        raise BadInput(f"{path.name} is not an ONNX file, or damaged") from None
    if not model.graph.node:
        raise BadInput(f"{path.name} is not an ONNX file, or has an empty graph")
    found = OnnxFile(content, model, tuple(files))
    if found.opset < OLDEST_OPSET:
        raise BadInput(
            f"{path.name} has operators of opset {found.opset}; ONNX Runtime runs {OLDEST_OPSET} and later: convert it "
            f"with onnx.version_converter.convert_version(model, {OLDEST_OPSET})"
        )
    return found
