"""The files of TLS, and names in certificates."""

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from resonnx_server.access.certificates import CertificatesFault, peer_name, read_certificates
from resonnx_server.access.policy import AccessFault, Policy
from resonnx_server.config import Settings
from resonnx_server.rpc.credentials import certificate_name

from ...certificates import Authority, private_bytes

AUTHORITY = Authority()
PAIR, OTHER = AUTHORITY.issue("server"), AUTHORITY.issue("other")


def test_files_that_fit_together(tmp_path: Path) -> None:
    chain, key = PAIR.write(tmp_path, "server")
    read = read_certificates(chain, key, None)
    assert (read.chain, read.key, read.client_ca) == (PAIR.certificate, PAIR.key, None)
    assert read.context.verify_mode is ssl.CERT_NONE
    authority = AUTHORITY.write(tmp_path, "ca")
    read = read_certificates(chain, key, authority)
    assert (read.client_ca, read.context.verify_mode) == (AUTHORITY.certificate, ssl.CERT_OPTIONAL)


def test_files_that_do_not_fit_together(tmp_path: Path) -> None:
    chain, key = PAIR.write(tmp_path, "server")
    _, others_key = OTHER.write(tmp_path, "other")
    encrypted, nonsense = tmp_path / "encrypted.key", tmp_path / "nonsense.pem"
    encrypted.write_bytes(private_bytes(ec.generate_private_key(ec.SECP256R1()), b"secret"))
    nonsense.write_bytes(b"\xff\xfe")
    given = [
        (chain, others_key, None),
        (chain, encrypted, None),
        (chain, tmp_path / "none", None),
        (nonsense, key, None),
        (chain, key, nonsense),
        (chain, key, key),
        (chain, key, tmp_path / "none"),
    ]
    for files in given:
        with pytest.raises(CertificatesFault, match=f"TLS with {chain if files[0] == chain else nonsense}"):
            read_certificates(*files)
    with pytest.raises(CertificatesFault, match="must be PEM files of a certificate, its private key without"):
        read_certificates(chain, others_key, None)
    with pytest.raises(CertificatesFault, match=r"none: .*No such file"):
        read_certificates(chain, tmp_path / "none", None)


@pytest.mark.parametrize("given", [{"tls_certificate": "a"}, {"tls_key": "a"}, {"tls_client_ca": "a"}])
def test_settings_of_tls_belong_together(given: dict[str, str]) -> None:
    with pytest.raises(
        AccessFault, match=f"TLS needs both tls_certificate and tls_key, but only {next(iter(given))} is"
    ):
        Policy(Settings(repository=Path(), **given))  # type: ignore[arg-type]


def test_a_certificate_s_name_is_its_first_alternative_name_or_its_common_name() -> None:
    subject = ((("organizationName", "o"),), (("commonName", "c"),))
    assert peer_name({"subject": subject, "subjectAltName": (("DNS", "a"), ("DNS", "b"))}) == "a"
    assert peer_name({"subject": subject}) == "c"
    assert peer_name({"subject": ()}) is peer_name({}) is peer_name(None) is None
    both = {"x509_common_name": [b"c"], "x509_subject_alternative_name": [b"a", b"b"]}
    assert certificate_name(both) == "a"
    assert certificate_name({"x509_common_name": [b"c"]}) == "c"
    assert certificate_name({"transport_security_type": [b"ssl"]}) is None
