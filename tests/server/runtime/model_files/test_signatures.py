"""SHA256SUMS.sig: what is signed, its text, and whom the server believes."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.model_files.signatures import (
    SIGNATURES,
    BadKey,
    Signature,
    TrustedKeys,
    dump_signatures,
    fingerprint_of,
    parse_signatures,
    signed_message,
)
from resonnx_server.runtime.model_files.sums import SUMS, read_listed, sha256sums

from ....conftest import examples

_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
_FINGERPRINT = fingerprint_of(_KEY.public_key().public_bytes_raw())
_TRUSTED = TrustedKeys({_FINGERPRINT: _KEY.public_key()})
_IDENTITY = "ab" * 32


def test_what_is_signed_stays_as_it_is() -> None:
    """Signatures of earlier releases must hold."""
    expected = (
        b"resonnx model version, signature format 1\nmodel digits\nversion 3\nsha256 " + _IDENTITY.encode() + b"\n"
    )
    assert signed_message("digits", 3, _IDENTITY) == expected


_signatures = st.builds(
    Signature, st.binary(min_size=8, max_size=8).map(bytes.hex), st.binary(min_size=64, max_size=64)
)


@examples(50)
@given(st.lists(_signatures, max_size=64))
def test_the_text_is_read_as_it_was_written(signatures: list[Signature]) -> None:
    assert parse_signatures(dump_signatures(signatures)) == signatures


@pytest.mark.parametrize(
    "text",
    [b"\n", b"ed25519", b"rsa 0123456789abcdef " + b"A" * 86 + b"==", b"ed25519 0123456789abcdef " + b"A" * 87 + b"="],
)
def test_other_lines_are_refused(text: bytes) -> None:
    with pytest.raises(ModelRefused, match="line 1 is not"):
        parse_signatures(text)


def test_more_signatures_than_anyone_needs_are_refused() -> None:
    line = dump_signatures([Signature("00" * 8, bytes(64))])
    with pytest.raises(ModelRefused, match="has 65 lines; 64 are allowed"):
        parse_signatures(line * 65)


@examples(50)
@given(st.integers(0, 511), st.sampled_from(["value", "model", "version", "identity"]))
def test_any_change_is_noticed(bit: int, changed: str) -> None:
    folder = Path("/nowhere")
    value = bytearray(_KEY.sign(signed_message("m", 1, _IDENTITY)))
    if changed == "value":
        value[bit // 8] ^= 1 << bit % 8
    place = {
        "value": ("m", 1, _IDENTITY),
        "model": ("n", 1, _IDENTITY),
        "version": ("m", 2 + bit, _IDENTITY),
        "identity": ("m", 1, "cd" * 32),
    }[changed]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            "resonnx_server.runtime.model_files.signatures.read_signatures",
            lambda _: [Signature(_FINGERPRINT, bytes(value))],
        )
        with pytest.raises(ModelRefused, match="is not of this version"):
            _TRUSTED.signer(folder, *place)


def test_one_good_signature_among_others_is_enough(tmp_path: Path) -> None:
    good = _KEY.sign(signed_message("m", 1, _IDENTITY))
    (tmp_path / SIGNATURES).write_bytes(
        dump_signatures(
            [Signature("00" * 8, bytes(64)), Signature(_FINGERPRINT, bytes(64)), Signature(_FINGERPRINT, good)]
        )
    )
    assert _TRUSTED.signer(tmp_path, "m", 1, _IDENTITY) == _FINGERPRINT


def test_a_key_of_another_kind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "other.pub"
    public = X25519PrivateKey.generate().public_key()
    path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(BadKey, match=r"other\.pub is not an Ed25519 key; `resonnx-export new-key` makes one"):
        TrustedKeys.read([path])


def test_key_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    for name, reason in (
        ("empty", "is not a public key in PEM form"),
        ("absent", "cannot be read: No such file"),
        (".", "is a folder, not a regular file"),
    ):
        with pytest.raises(BadKey, match=reason):
            TrustedKeys.read([tmp_path / name])


def test_the_signature_is_not_among_the_files_that_are_summed(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x")
    (tmp_path / SUMS).write_bytes(sha256sums({"model.onnx": b"x"}))
    identity = read_listed(tmp_path).identity
    (tmp_path / SIGNATURES).write_bytes(dump_signatures([Signature("00" * 8, bytes(64))]))
    assert read_listed(tmp_path)[0] == identity


def test_a_version_is_vouched_for_before_its_files_are_read(tmp_path: Path) -> None:
    (tmp_path / SUMS).write_bytes(sha256sums({"model.onnx": b"absent"}))

    def refuse(identity: str) -> None:
        raise ModelRefused("not vouched for")

    with pytest.raises(ModelRefused, match="not vouched for"):
        read_listed(tmp_path, refuse)
