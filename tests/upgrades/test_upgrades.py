"""Versions of earlier exporters load, verify and answer as they did; what later exporters write is refused by name."""

import hashlib
import json
import shutil
from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import Descriptor
from resonnx_export.verification import verify_version
from resonnx_proto.v1 import manifest_pb2
from resonnx_server import __version__
from resonnx_server.errors import ModelRefused
from resonnx_server.repository import latency_cache
from resonnx_server.runtime.model_files.manifest import parse_manifest
from resonnx_server.runtime.model_files.needed_version import NEEDED_SERVER, refuse_newer

from .answers import Answers, Repository, ask_all, serving
from .write import FOLDER

VERSIONS = sorted(folder.name for folder in FOLDER.iterdir())
# Each field of a manifest with its number and type, by the first release whose server reads them.
_FIELDS = {"0.1.0": "a5737e386bd38ec6"}
_MOST_BYTES = 3_000_000


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """The models of all commits in one repository, and all their latency tables."""
    base = tmp_path_factory.mktemp("upgrade")
    for name in VERSIONS:
        for model in ("classifier", "captioner"):
            shutil.copytree(FOLDER / name / model, base / "models" / f"{model}-{name}")
        shutil.copytree(FOLDER / name / "cache", base / "cache", dirs_exist_ok=True)
    return Repository(base / "models", base / "cache")


@pytest.fixture(scope="module")
def address(repository: Repository) -> Iterator[str]:
    with serving(repository, environment={}) as address:
        yield address


@pytest.mark.parametrize("name", VERSIONS)
def test_answers_are_those_of_the_server_of_that_time(name: str, address: str) -> None:
    recorded: Answers = json.loads((FOLDER / name / "answers.json").read_text())
    answers = ask_all(address, suffix=f"-{name}")
    # Another processor or ONNX Runtime sums in another order.
    for now, then in zip(answers["predictions"], recorded["predictions"], strict=True):
        assert dict(now) == pytest.approx(dict(then), rel=1e-4, abs=1e-6)
    for (caption, log_prob), (text, log_prob_then) in zip(answers["captions"], recorded["captions"], strict=True):
        assert caption == text
        assert log_prob == pytest.approx(log_prob_then, rel=1e-4)


@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize("model", ["classifier", "captioner"])
def test_versions_verify(name: str, model: str) -> None:
    files = {"classifier": ["model"], "captioner": ["encoder", "decoder"]}[model]
    lines = list(verify_version(FOLDER / name / model / "1", ()))
    compared = [line for line in lines if "CPUExecutionProvider/fp32: max|delta|" in line]
    assert [line.split(".onnx")[0].strip() for line in compared] == files


def test_tables_of_earlier_servers_are_measured_again(repository: Repository, address: str) -> None:
    old = {path.name for name in VERSIONS for path in (FOLDER / name / "cache").iterdir()}
    new = {path.name for path in repository.cache.glob("latency-*.json")}
    # At least the classifier's, and the captioner's two, though the processor may be the same.
    assert address
    assert len(new - old) >= 3


def test_tables_are_of_one_version_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    today = latency_cache._hardware()
    monkeypatch.setattr(latency_cache, "__version__", "0.0.1")
    assert latency_cache._hardware() != today


def _fields(message: Descriptor, seen: set[str]) -> Iterator[str]:
    if message.full_name in seen:
        return
    seen.add(message.full_name)
    for field in message.fields:
        yield f"{field.full_name} {field.number} {field.type}"
        if field.enum_type is not None:
            yield from (f"{value.name} {value.number}" for value in field.enum_type.values)
        if field.message_type is not None:
            yield from _fields(field.message_type, seen)


def test_new_fields_raise_the_needed_server() -> None:
    """If this fails: a field is new. Set NEEDED_SERVER to the next release, and record the fields under it."""
    fields = "\n".join(sorted(_fields(manifest_pb2.Manifest.DESCRIPTOR, set())))
    assert _FIELDS[NEEDED_SERVER] == hashlib.sha256(fields.encode()).hexdigest()[:16]


def test_manifests_of_later_exporters_are_refused_by_the_version_that_reads_them() -> None:
    text = (FOLDER / VERSIONS[0] / "classifier/1/manifest.json").read_text()
    later = json.dumps({**json.loads(text), "needs_server": "12.3.4", "a_new_field": {"x": 1}, "schema_version": 2})
    with pytest.raises(ModelRefused, match=rf"needs resonnx-server 12\.3\.4 or later, and this is {__version__}"):
        parse_manifest(later.encode())


@pytest.mark.parametrize("needed", [__version__, "0.0.9", "", "next", None, 7, ["9.9.9"], "9.9", "9" * 5000])
def test_other_versions_are_no_reason_to_refuse(needed: object) -> None:
    """What is no version is for the parser of the whole manifest to judge."""
    refuse_newer(json.dumps({"needs_server": needed}))


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "[" * 100_000])
def test_what_is_no_object_is_left_to_the_parser(text: str) -> None:
    refuse_newer(text)


def test_fixtures_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= _MOST_BYTES
