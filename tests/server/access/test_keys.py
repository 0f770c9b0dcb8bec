"""The file of keys: what is read, what is refused, and the command that makes entries."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from resonnx_server.access.caller import DEFAULT_PRIORITY, Role
from resonnx_server.access.keys import KeysFault, digest_of, new_key, read_keys
from resonnx_server.scheduling import queue

ALICE = digest_of("alice").hex()


def _file(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_an_entry_gives_its_rights(tmp_path: Path) -> None:
    text = f"""
[keys.alice]
sha256 = "{ALICE}"

[keys.batch]
sha256 = ["{digest_of("old").hex()}", "{digest_of("new").hex()}"]
roles = ["infer", "admin"]
best_priority = 2
models = ["digits"]
rate_per_s = 2.5
max_concurrent = 3

[keys.dashboard]
certificate = "dashboard.example"
roles = ["read"]
"""
    ring = read_keys(_file(tmp_path / "keys.toml", text))
    alice, old, new = map(ring.of_key, ("alice", "old", "new"))
    assert alice is not None
    assert (alice.name, alice.roles, alice.best_priority) == ("key:alice", {Role.INFER, Role.READ}, DEFAULT_PRIORITY)
    assert (alice.models, alice.rate_per_s, alice.max_concurrent, alice.is_named) == (None, None, None, True)
    assert new is not None
    assert new == old, "a key that is being replaced"
    assert (new.name, new.roles, new.best_priority, new.models) == ("key:batch", {"infer", "admin"}, 2, {"digits"})
    assert (new.rate_per_s, new.max_concurrent) == (2.5, 3)
    dashboard = ring.of_certificate("dashboard.example")
    assert dashboard is not None
    assert (dashboard.name, dashboard.roles) == ("cert:dashboard.example", {Role.READ})
    assert ring.of_key("Alice") is ring.of_key("") is ring.of_key(ALICE) is ring.of_certificate("alice") is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no keys"),
        ("keys = 1", r"sections are \[keys.NAME\]"),
        ("[server]\n[keys.a]", r"sections are \[keys.NAME\]"),
        ("[keys]\na = 1", "must be a section"),
        ("[keys.a", "keys.toml: "),
        ("[keys.a]\nroles = ['read']", "either sha256 or certificate"),
        (f"[keys.a]\nsha256 = '{ALICE}'\ncertificate = 'a'", "either sha256 or certificate"),
        ("[keys.a]\nsha256 = 'secret'", "sha256"),
        (f"[keys.a]\nsha256 = '{ALICE.upper()}'", "sha256"),
        (f"[keys.a]\nsha256 = '{ALICE}'\nroles = []", "roles"),
        (f"[keys.a]\nsha256 = '{ALICE}'\nroles = ['root']", "roles"),
        (f"[keys.a]\nsha256 = '{ALICE}'\nrole = ['read']", "role"),
        (f"[keys.a]\nsha256 = '{ALICE}'\nbest_priority = 0", "best_priority"),
        (f"[keys.a]\nsha256 = '{ALICE}'\nbest_priority = 9", "best_priority"),
        (f"[keys.a]\nsha256 = '{ALICE}'\nrate_per_s = 0", "rate_per_s"),
        (f"[keys.a]\nsha256 = '{ALICE}'\nmax_concurrent = 0", "max_concurrent"),
        (f"[keys.a]\nsha256 = '{ALICE}'\n[keys.b]\nsha256 = '{ALICE}'", r"\[keys.b\] has the key of key:a"),
        ("[keys.a]\ncertificate = 'c'\n[keys.b]\ncertificate = 'c'", "two entries have the certificate 'c'"),
        (f"[keys.'a b']\nsha256 = '{ALICE}'", "a name has letters"),
    ],
)
def test_a_file_that_is_not_right_is_told(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(KeysFault, match=told):
        read_keys(_file(tmp_path / "keys.toml", text))


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "none", tmp_path, tmp_path / "binary"):
        with pytest.raises(KeysFault, match=f"keys file {path}"):
            read_keys(path)


def test_keys_are_long_and_random() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert {len(key) for key in keys} == {len("resonnx_") + 43}, "256 bits in base64"


def test_priorities_are_those_of_the_queue() -> None:
    assert DEFAULT_PRIORITY == queue.DEFAULT_PRIORITY


def _new(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "resonnx_server", "keys", "new", *arguments]
    return subprocess.run(command, env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True, timeout=60)


def test_the_command_makes_entries_that_are_read(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    first = _new("alice", "--file", str(file))
    assert first.returncode == 0, first.stderr
    assert file.stat().st_mode & 0o077 == 0
    file.chmod(0o640)
    options = [
        "--role",
        "infer",
        "--model",
        'a"b',
        "--best-priority",
        "1",
        "--rate-per-s",
        "5",
        "--max-concurrent",
        "2",
    ]
    second = _new("batch", "--file", str(file), *options)
    assert second.returncode == 0, second.stderr
    assert file.stat().st_mode & 0o777 == 0o640, "who may read it stays"
    ring = read_keys(file)
    alice, batch = ring.of_key(first.stdout.strip()), ring.of_key(second.stdout.strip())
    assert alice is not None
    assert alice.name == "key:alice"
    assert batch is not None
    assert (batch.roles, batch.models, batch.best_priority) == ({Role.INFER}, {'a"b'}, 1)
    assert (batch.rate_per_s, batch.max_concurrent) == (5, 2)
    assert first.stdout.strip() not in file.read_text(), "the key itself is nowhere"

    twice = _new("alice", "--file", str(file))
    assert (twice.returncode, twice.stdout) == (2, "")
    assert f"{file} has [keys.alice] already" in twice.stderr
    assert "sha256 = [OLD, NEW]" in twice.stderr
    assert read_keys(file).of_key(first.stdout.strip()) == alice, "the file is as it was"
    assert [*tmp_path.iterdir()] == [file]


def test_the_command_prints_the_entry_where_no_file_is_given(tmp_path: Path) -> None:
    done = _new("alice")
    key, _, entry = done.stdout.partition("\n\n")
    assert read_keys(_file(tmp_path / "keys.toml", entry)).of_key(key) is not None


def test_a_file_that_is_too_large_or_is_no_file_is_not_read(tmp_path: Path) -> None:
    entry = f'[keys.alice]\nsha256 = "{ALICE}"\n'
    with pytest.raises(KeysFault, match="it has more than 4194304 bytes"):
        read_keys(_file(tmp_path / "keys.toml", entry + "#" * (4 << 20)))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(KeysFault, match="it is no regular file"):
        read_keys(tmp_path / "pipe")
    with pytest.raises(KeysFault, match="No such file"):
        read_keys(tmp_path / "missing")
