"""Packs answers with gzip for clients that accept it, in pieces."""

import zlib
from typing import Final

from resonnx_server.protocol.pieces import Work

# Shorter answers fit a packet or two as they are.
LEAST_BYTES: Final = 1 << 12
# zlib's window with gzip's header; a higher level takes several times as long for few bytes less.
_GZIP: Final = 31
_LEVEL: Final = 1
_PIECE_BYTES: Final = 1 << 16


def packed(body: bytes) -> Work[bytes]:
    """Return a body as a gzip stream."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    parts = []
    for start in range(0, len(body), _PIECE_BYTES):
        parts.append(packer.compress(memoryview(body)[start : start + _PIECE_BYTES]))
        yield
    parts.append(packer.flush())
    return b"".join(parts)
