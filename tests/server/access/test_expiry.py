"""When a certificate expires, and which of a chain is the first."""

import pytest
from cryptography import x509
from resonnx_server.access.expiry import first_expiry

from ...certificates import Authority

AUTHORITY = Authority()


def _expected(certificate: bytes) -> float:
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc.timestamp()


@pytest.mark.parametrize("days", [-1, 1, 10_000, 40_000])
def test_the_end_of_validity_in_either_form(days: int) -> None:
    """Years from 2050 on have four digits."""
    certificate = AUTHORITY.issue("server", days=days).certificate
    assert first_expiry(certificate) == _expected(certificate)


def test_the_first_of_a_chain_counts() -> None:
    early, late = AUTHORITY.issue("server", days=2).certificate, AUTHORITY.issue("server", days=3).certificate
    assert first_expiry(b"a comment\n" + late + early + AUTHORITY.certificate) == min(
        map(_expected, (late, early, AUTHORITY.certificate))
    )
    assert first_expiry(AUTHORITY.issue("server").key) is None
