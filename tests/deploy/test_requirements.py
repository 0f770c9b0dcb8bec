"""deploy/requirements/*.txt: the packages of the images, all with hashes, as the distributions need them."""

import re
import runpy
import tomllib
from pathlib import Path
from unittest import mock

import pytest
from packaging.requirements import Requirement

_ROOT = Path(__file__).resolve().parents[2]
_RUNTIMES = ("cpu", "gpu", "openvino")
_LISTS = ("server", "client", "export", *_RUNTIMES, "otel", "build")
_ROOMS = {"resonnx-server": "server", "resonnx-export": "export", "resonnx": "client", "resonnx-proto": "proto"}


def _versions(name: str) -> dict[str, str]:
    text = (_ROOT / f"deploy/requirements/{name}.txt").read_text()
    return {match[1]: match[2] for match in re.finditer(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE)}


def _needed(distribution: str) -> dict[str, Requirement]:
    """Return what a distribution requires, without extras; from its files, as the installed metadata may be older."""
    room = _ROOT / _ROOMS[distribution]
    stated = tomllib.loads((room / "pyproject.toml").read_text())["project"].get("dependencies", [])
    if (room / "setup.py").exists():
        with mock.patch("setuptools.setup") as setup:
            runpy.run_path(str(room / "setup.py"))
        stated = setup.call_args.kwargs["install_requires"]
    found: dict[str, Requirement] = {}
    for requirement in map(Requirement, stated):
        if requirement.name in _ROOMS:
            found |= _needed(requirement.name)
        else:
            found[requirement.name.lower()] = requirement
    return found


@pytest.mark.parametrize("name", _LISTS)
def test_every_package_has_a_version_and_hashes(name: str) -> None:
    text = (_ROOT / f"deploy/requirements/{name}.txt").read_text()
    for block in re.split(r"\n(?=\S)", text.strip()):
        first, *rest = block.splitlines()
        assert re.fullmatch(r"[a-z0-9-]+==\S+ \\", first), first
        assert rest
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line) for line in rest), block
    assert "://" not in text


@pytest.mark.parametrize(
    ("name", "distribution", "elsewhere"),
    [("server", "resonnx-server", ()), ("client", "resonnx", ()), ("export", "resonnx-export", ("torch",))],
)
def test_the_distributions_dependencies_are_listed(name: str, distribution: str, elsewhere: tuple[str, ...]) -> None:
    """After a change of dependencies or constraints: make lock."""
    versions = _versions(name)
    for package, requirement in _needed(distribution).items():
        if package not in elsewhere:
            assert requirement.specifier.contains(versions[package]), package
    assert not versions.keys() & set(elsewhere)


@pytest.mark.parametrize("extra", _RUNTIMES)
def test_each_runtime_has_a_list(extra: str) -> None:
    extras = tomllib.loads((_ROOT / "server/pyproject.toml").read_text())["project"]["optional-dependencies"]
    (requirement,) = map(Requirement, extras[extra])
    versions = _versions(extra)
    assert [package for package in versions if package.startswith("onnxruntime")] == [requirement.name]
    assert requirement.specifier.contains(versions[requirement.name])


def test_the_servers_images_can_export_traces() -> None:
    extras = tomllib.loads((_ROOT / "server/pyproject.toml").read_text())["project"]["optional-dependencies"]
    versions = _versions("otel")
    for requirement in map(Requirement, extras["otel"]):
        assert requirement.specifier.contains(versions[requirement.name]), requirement.name
    assert "-r deploy/requirements/otel.txt" in (_ROOT / "server/Dockerfile").read_text()


@pytest.mark.parametrize("name", _LISTS)
def test_versions_are_those_that_are_tested(name: str) -> None:
    pinned = dict(
        line.lower().split("==") for line in (_ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    versions = _versions(name)
    assert {package: versions[package] for package in versions.keys() & pinned} == {
        package: pinned[package] for package in versions.keys() & pinned
    }


@pytest.mark.parametrize("name", ["client", "export", "otel", *_RUNTIMES])
def test_the_images_have_one_version_of_each_package(name: str) -> None:
    server, other = _versions("server"), _versions(name)
    assert {package: server[package] for package in server.keys() & other} == {
        package: other[package] for package in server.keys() & other
    }


@pytest.mark.parametrize("name", ["server", "client", "export"])
def test_which_onnx_runtime_is_left_to_the_extra(name: str) -> None:
    assert not [package for package in _versions(name) if package.startswith("onnxruntime")]


@pytest.mark.parametrize("room", ["server", "export", "client"])
def test_images_install_by_hash_and_have_a_list_of_parts(room: str) -> None:
    text = (_ROOT / room / "Dockerfile").read_text().replace("\\\n", " ")
    installs = re.findall(r"pip (?:--python \S+ )?install ([^&\n]*)", text)
    assert len(installs) >= 3
    for arguments in installs:
        assert "--require-hashes" in arguments or "--no-index" in arguments, arguments
    assert "cyclonedx-py environment" in text
    assert "--output-file /app/sbom.cdx.json" in text
