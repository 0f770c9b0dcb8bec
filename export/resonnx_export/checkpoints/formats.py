"""Describes files that are no checkpoints, by their first bytes."""

from typing import Final

_SIGNATURES: Final = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "a gzip file (unpack it first)",
    b"<": "an HTML or XML page",
    b"version https://git-lfs": "a Git LFS pointer (fetch the file itself first)",
    b"PK": "a zip archive that is damaged or was not written by torch.save",
    b"\x80": "a pickle that is damaged or was not written by torch.save",
}
HEAD_BYTES: Final = 64


def describe(head: bytes) -> str:
    """Describe a file by its first HEAD_BYTES bytes."""
    for signature, name in _SIGNATURES.items():
        if head.startswith(signature):
            return name
    if head.isascii() and all(byte >= 32 or byte in b"\t\r\n" for byte in head):
        return f"text that begins with {head[:24].decode()!r}"
    return f"unknown data that begins with the bytes {head[:8].hex(' ')}"
