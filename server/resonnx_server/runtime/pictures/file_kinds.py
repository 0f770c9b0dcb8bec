"""Names the kind of bytes sent as a picture: "an HTML page", "a HEIC picture", "a Git LFS pointer"."""

import re
from typing import Final

from resonnx_server.errors import BadImage
from resonnx_server.runtime.pictures.avif_header import is_avif

# Bytes that are examined, shown in a message, and searched for a picture behind other bytes.
_HEAD: Final = 4096
_SHOWN: Final = 24
_LEADING: Final = 256

_MAGICS: Final = (
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"GIF87a", "a GIF picture"),
    (b"GIF89a", "a GIF picture"),
    (b"II+\x00", "a BigTIFF picture"),
    (b"MM\x00+", "a BigTIFF picture"),
    (b"II*\x00", "a TIFF picture"),
    (b"MM\x00*", "a TIFF picture"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (b"\x00\x00\x01\x00", "an ICO icon"),
    (b"\x00\x00\x02\x00", "a cursor (CUR)"),
    (b"8BPS", "a Photoshop picture"),
    (b"qoif", "a QOI picture"),
    (b"v/1\x01", "an OpenEXR picture"),
    (b"DDS ", "a DDS texture"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"\x1f\x8b", "gzip data"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ\x00", "xz data"),
    (b"\x28\xb5\x2f\xfd", "Zstandard data"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"OggS", "an Ogg file"),
    (b"ID3", "an MP3 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x7fELF", "a program (ELF)"),
)
_BRANDS: Final = (
    (("heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1"), "a HEIC picture"),
    (("crx ",), "a camera's raw picture (CR3)"),
    (("qt  ",), "a QuickTime video"),
)
_RIFFS: Final = {b"WEBP": "a WebP picture", b"AVI ": "an AVI video", b"WAVE": "a WAVE sound"}
# The formats' first bytes in base64.
_BASE64: Final = (
    ("/9j/", " of a JPEG picture"),
    ("iVBORw0KGgo", " of a PNG picture"),
    ("R0lGOD", " of a GIF picture"),
    ("UklGR", " of a WebP picture"),
)
_BASE64_TEXT: Final = re.compile(r"[A-Za-z0-9+/_\-\r\n]{16,}={0,2}")
_HEX_TEXT: Final = re.compile(r"(?:[0-9A-Fa-f]{2}){16,}")
_TAG: Final = re.compile(r"<[a-z!?]", re.IGNORECASE)
_TEXT: Final = re.compile(r"[\t\n\r\f\x20-\x7e\x80-\U0010ffff]+")


def kind_of(content: bytes) -> str:
    """Return what the bytes are, with an article, or how they begin; at most about 200 characters."""
    head = content[:_HEAD]
    if not head:
        return "an empty file"
    return (
        _by_magic(head)
        or _wrapping(head)
        or _text_kind(head)
        or _behind_others(head)
        or ("zero bytes" if not head.strip(b"\0") else f"{len(content)} bytes that begin {head[:_SHOWN]!r}")
    )


def damaged(content: bytes, field: str) -> BadImage:
    """Return the error for a picture file that its format's decoder rejects."""
    return BadImage(field, f"{kind_of(content)} that is damaged or incomplete")


def _by_magic(head: bytes) -> str:
    if is_avif(head):
        return "an AVIF picture"
    if head[4:8] == b"ftyp":
        brand = head[8:12].decode("latin-1")
        return next((kind for brands, kind in _BRANDS if brand in brands), "an MP4 video")
    if head[:4] == b"RIFF":
        return _RIFFS.get(head[8:12], "a RIFF file")
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0":
        return "a BMP picture"
    if re.match(rb"P[1-6][\s#]", head):
        return "a PNM picture"
    return next((kind for magic, kind in _MAGICS if head.startswith(magic)), "")


def _wrapping(head: bytes) -> str:
    """Name the HTTP wrapping of a picture that was not unpacked."""
    if head.startswith((b"HTTP/1", b"HTTP/2")):
        return "an HTTP answer with its header"
    if head.startswith(b"--") and b"content-disposition" in head.lower():
        return "a multipart form, not the file in it"
    return ""


def _text_kind(head: bytes) -> str:
    """Name the kind of text; "" if it is no text."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "UTF-16 text"
    try:
        # A character may be cut off at the end.
        text = head.decode("utf-8-sig", "strict" if len(head) < _HEAD else "ignore").strip()
    except UnicodeDecodeError:
        return ""
    if not text:
        return "white space"
    if not _TEXT.fullmatch(text):
        return ""
    begins = text[:512].lower()
    if begins.startswith("version https://git-lfs"):
        return "a Git LFS pointer, not the file itself"
    if begins.startswith("data:"):
        return "a data URI, not the bytes in it"
    if _TAG.match(text):
        return _markup_kind(text.lower())
    if text[0] in "{[":
        return "JSON"
    if re.match(r"(https?|file|s3|gs)://", begins):
        return "an address, not the picture there"
    for prefix, of_what in _BASE64:
        if text.startswith(prefix):
            return f"base64 text{of_what}"
    if _HEX_TEXT.fullmatch(text):
        return "hexadecimal text"
    if _BASE64_TEXT.fullmatch(text):
        return "base64 text"
    return f"plain text that begins {text[:_SHOWN]!r}"


def _markup_kind(text: str) -> str:
    if "<svg" in text:
        return "an SVG drawing"
    if re.match(r"<(!doctype html|html|head|body|title|meta|script|!--)", text) or "<html" in text:
        return "an HTML page"
    return "an XML document"


def _behind_others(head: bytes) -> str:
    """Name a picture that follows other bytes."""
    for magic, kind in _MAGICS[:4]:
        if (position := head.find(magic, 0, _LEADING)) > 0:
            return f"{kind} behind {position} other bytes ({head[: min(position, _SHOWN)]!r})"
    return ""
