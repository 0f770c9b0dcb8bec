"""Reads answers.npz, pictures with the outputs of the user's own model, without pickles and within limits."""

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from resonnx_server.runtime.model_files.npz import BadArchive, Expected, read_npz
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.video.clips import Clips, joined

from resonnx_export.errors import BadInput
from resonnx_export.proof.reference import Float, Tokens

# Limit for the file, and for its arrays unpacked: 1,700 pictures of 224x224 pixels.
MOST_BYTES: Final = 256 << 20
MOST_PICTURES: Final = 4096
# Follows the last token of a row of `tokens`.
PADDING: Final = -1

_NUMBERS: Final = (np.float16, np.float64)
_TEXT: Final = Expected("U", (), ("S",))
_ARRAYS: Final = {
    "pixels": Expected(np.uint8, (None, None, None, 3)),
    # Files one after the other with `image_bytes`, or a row each.
    "images": Expected(np.uint8, (None,), ("S",)),
    "image_bytes": Expected(np.int64, (None,), (np.int32,)),
    "inputs": Expected(np.float32, (None, None, None, None), _NUMBERS),
    # Clips, and the number of frames of each.
    "frames": Expected(np.uint8, (None, None, None, None, 3)),
    "features": Expected(np.float32, (None, None, None), _NUMBERS),
    "lengths": Expected(np.int64, (None,), (np.int32,)),
    "logits": Expected(np.float32, (None, None), _NUMBERS),
    "tokens": Expected(np.int64, (None, None), (np.int32,)),
    "captions": Expected("U", (None,), ("S",)),
    "device": _TEXT,
    "dtype": _TEXT,
    "preprocess": _TEXT,
    "tf32": Expected(np.bool_, ()),
}
_OUTPUTS: Final = ("logits", "tokens", "captions")
_SUBJECTS: Final = ("pixels", "images", "frames", "features")

Kind = Literal["logits", "tokens", "captions"]


@dataclass(frozen=True)
class Answers:
    """N pictures or clips with the outputs of the user's model: logits, tokens or captions.

    Attributes:
        name: The file's name, for messages.
        pixels: uint8 [N,H,W,3], RGB, of the network's input size; None if `images` are given.
        images: N picture files of any size; () if `pixels` are given.
        inputs: float32 [N,C,H,W], what the user's preprocessing made of `images`; None if not recorded.
        logits: float32 [N,K].
        tokens: int64 [N,T], padded with PADDING.
        captions: N texts.
        device: "cpu", "cuda" and the like; "" if not recorded.
        dtype: "float32" and the like; "" if not recorded.
        tf32: Whether TF32 was allowed.
        preprocess: "assumed" if the helper normalised `pixels` itself, otherwise the user's code did.
        ignored: Names of other arrays in the file.
        clips: N clips of frames of the network's input size, or of features, instead of pictures.
    """

    name: str
    pixels: Pixels | None = None
    images: tuple[bytes, ...] = ()
    inputs: Float | None = None
    logits: Float | None = None
    tokens: Tokens | None = None
    captions: tuple[str, ...] = ()
    device: str = ""
    dtype: str = ""
    tf32: bool = False
    preprocess: str = ""
    ignored: tuple[str, ...] = ()
    clips: Clips | None = None

    @property
    def are_files(self) -> bool:
        """Whether picture files were recorded, which the network's preprocessing resizes."""
        return self.pixels is None and self.clips is None

    def __len__(self) -> int:
        if self.clips is not None:
            return len(self.clips)
        return len(self.images) if self.pixels is None else len(self.pixels)

    @property
    def kind(self) -> Kind:
        """The output that was recorded."""
        if self.logits is not None:
            return "logits"
        return "captions" if self.tokens is None else "tokens"

    @property
    def exact(self) -> bool:
        """Whether they were recorded in fp32 on a CPU; so taken if the file does not say."""
        return self.device in ("", "cpu") and self.dtype in ("", "float32") and not self.tf32

    def __str__(self) -> str:
        """Return number and kind of the pictures, and how they were recorded."""
        how = " ".join(filter(None, (self.dtype, f"on {self.device}" if self.device else "")))
        pictures = "picture files" if self.are_files else "pictures" if self.clips is None else "clips"
        return f"{len(self)} {pictures}{f' recorded in {how}' if how else ''}{' with TF32' if self.tf32 else ''}"


def read_answers(path: Path) -> Answers:
    """Read a file of `record`, or one of the same arrays that the user saved by numpy.savez.

    Raises:
        BadInput: It is no such file, is damaged or too large, or its arrays do not belong together.
    """
    ignored: list[str] = []

    def ignores(name: str) -> bool:
        if name not in _ARRAYS:
            ignored.append(name)
        return name not in _ARRAYS

    try:
        arrays = read_npz(_content(path), _ARRAYS.get, MOST_BYTES, ignores=ignores)
    except BadArchive as error:
        objects = "; lists of other things than numbers or texts are stored as pickles, which are not read"
        raise BadInput(f"{path.name} {error}{objects if '|O' in str(error) else ''}") from None
    try:
        return _checked(path.name, arrays, tuple(ignored))
    except BadInput as error:
        raise BadInput(f"{path.name}: {error}") from None


def _content(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BadInput(f"{path.name} is not a file")
        if status.st_size > MOST_BYTES:
            raise BadInput(f"{path.name} has {status.st_size} bytes; at most {MOST_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None


def _checked(name: str, arrays: dict[str, npt.NDArray[Any]], ignored: tuple[str, ...]) -> Answers:
    outputs = [each for each in _OUTPUTS if each in arrays]
    if len(outputs) != 1:
        found = " and ".join(outputs) or f"none of them{f', but {_listed(ignored)}' if ignored else ''}"
        raise BadInput(f"it must hold one of logits [N,K], tokens [N,T] and captions [N], and holds {found}")
    subjects = [each for each in _SUBJECTS if each in arrays]
    if len(subjects) != 1:
        raise BadInput(
            "it must hold either pixels, uint8 [N,H,W,3], or images, encoded files; of clips frames, uint8 "
            "[N,T,H,W,3], or features [N,T,D]"
        )
    images = _files(arrays)
    count = len(images) if "images" in arrays else len(arrays[subjects[0]])
    if not 1 <= count <= MOST_PICTURES:
        raise BadInput(f"it holds {count} pictures; 1 to {MOST_PICTURES} are compared")
    for field in (*outputs, "inputs"):
        if field in arrays and len(arrays[field]) != count:
            raise BadInput(f"{field} has {len(arrays[field])} rows for {count} pictures")
    dtype = _dtype(arrays)
    for field in ("logits", "inputs"):
        if field in arrays:
            arrays[field] = _finite(field, arrays[field])
    tokens = arrays.get("tokens")
    return Answers(
        name,
        arrays.get("pixels"),
        images,
        arrays.get("inputs"),
        arrays.get("logits"),
        None if tokens is None else _padded(tokens),
        tuple(_texts("captions", arrays["captions"])) if "captions" in arrays else (),
        device=_text(arrays, "device").partition(":")[0],
        dtype=dtype,
        tf32=bool(arrays["tf32"].view(np.uint8)) if "tf32" in arrays else False,
        preprocess=_text(arrays, "preprocess"),
        ignored=ignored,
        clips=_clips(subjects[0], arrays),
    )


def _clips(field: str, arrays: dict[str, npt.NDArray[Any]]) -> Clips | None:
    """Return the clips; their lengths are those of the arrays if they are not recorded."""
    if field not in ("frames", "features"):
        return None
    frames = arrays[field] if field == "frames" else _finite(field, arrays[field])
    lengths = arrays.get("lengths", np.full(len(frames), frames.shape[1])).astype(np.int64)
    if len(lengths) != len(frames) or not ((lengths >= 1) & (lengths <= frames.shape[1])).all():
        raise BadInput(f"lengths must be 1 to {frames.shape[1]} for each of {len(frames)} clips")
    return joined([clip[:length] for clip, length in zip(frames, lengths, strict=True)])


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(repr(each[:32]) for each in names[:4])


def _files(arrays: dict[str, npt.NDArray[Any]]) -> tuple[bytes, ...]:
    """Return the picture files; rows of bytes have zeros after the shorter files, which decoders ignore."""
    if "images" not in arrays:
        return ()
    images = arrays["images"]
    if images.dtype.kind == "S":
        return tuple(row.tobytes() for row in images.view(np.uint8).reshape(len(images), images.itemsize))
    sizes = arrays.get("image_bytes")
    if sizes is None:
        raise BadInput("images is one array of bytes; image_bytes, the size of each file, is missing")
    if len(sizes) > MOST_PICTURES:
        raise BadInput(f"image_bytes has {len(sizes)} entries; at most {MOST_PICTURES}")
    ends = np.cumsum(sizes, dtype=np.int64)
    if (sizes <= 0).any() or (sizes > len(images)).any() or (ends[-1] if len(ends) else 0) != len(images):
        raise BadInput(f"image_bytes must be positive and add up to the {len(images)} bytes of images")
    return tuple(each.tobytes() for each in np.split(images, ends[:-1]))


def _finite(field: str, values: npt.NDArray[Any]) -> Float:
    if not values.size:
        raise BadInput(f"{field} has shape {list(values.shape)}, which is empty")
    with np.errstate(over="ignore"):
        single: Float = values.astype(np.float32)
    if wrong := int((~np.isfinite(single)).sum()):
        raise BadInput(f"{wrong} of {single.size} values of {field} are NaN or infinite")
    return single


def _padded(tokens: npt.NDArray[Any]) -> Tokens:
    if not tokens.size:
        raise BadInput(f"tokens has shape {list(tokens.shape)}, which is empty")
    if tokens.min() < PADDING:
        raise BadInput(f"tokens holds {tokens.min()}; ids are 0 or more, and {PADDING} after the last of a row")
    return tokens.astype(np.int64)


def _texts(field: str, values: npt.NDArray[Any]) -> list[str]:
    try:
        return [each.decode() if isinstance(each, bytes) else str(each) for each in values.ravel().tolist()]
    except (ValueError, SystemError):
        raise BadInput(f"{field} is not text") from None


def _text(arrays: dict[str, npt.NDArray[Any]], field: str) -> str:
    return _texts(field, arrays[field])[0][:64] if field in arrays else ""


def _dtype(arrays: dict[str, npt.NDArray[Any]]) -> str:
    """Return the type that the model computed in: the field's, or else that of logits below float32."""
    stated = _text(arrays, "dtype").removeprefix("torch.")
    if not stated and "logits" in arrays and arrays["logits"].dtype == np.float16:
        return "float16"
    return stated
