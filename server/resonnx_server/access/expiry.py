"""Reads from certificates when they expire; Python's `ssl` tells it of peers' certificates only."""

import base64
import re
from datetime import UTC, datetime
from typing import Final

_PEM: Final = re.compile(rb"-----BEGIN (?:X509 )?CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END")
_SEQUENCE, _VERSION, _UTC_TIME = 0x30, 0xA0, 0x17
# Years of two digits from here on are of the 20th century (RFC 5280).
_CENTURY: Final = 50


def first_expiry(chain: bytes) -> float | None:
    """Return the POSIX time in seconds at which the first of a PEM file's certificates expires; None without any."""
    return min((_expiry(base64.b64decode(found[1])) for found in _PEM.finditer(chain)), default=None)


def _expiry(der: bytes) -> float:
    """Return the end of a certificate's validity. Raises ValueError or IndexError if it is none."""
    _, signed = _item(der, 0)
    _, at = _item(der, signed.start)
    start = at.start
    if der[start] == _VERSION:
        start = _item(der, start)[1].stop
    # Serial number, algorithm, issuer.
    for _ in range(3):
        start = _item(der, start)[1].stop
    kind, validity = _item(der, start)
    if kind != _SEQUENCE:
        raise ValueError("a certificate has no validity")
    _, begins = _item(der, validity.start)
    kind, ends = _item(der, begins.stop)
    text = der[ends.start : ends.stop].decode("ascii")
    if kind == _UTC_TIME:
        text = ("19" if int(text[:2]) >= _CENTURY else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _item(der: bytes, at: int) -> tuple[int, range]:
    """Return the tag of the item at a position, and where its content is."""
    length, start = der[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(der[start : start + size]), start + size
    return der[at], range(start, start + length)
