"""deploy/requirements/*.txt: the packages of the images, all with hashes, as the distributions need them."""

import re
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

_ROOT = Path(__file__).resolve().parents[2]
_LISTS = ("server", "openvino", "export", "build")


def _versions(name: str) -> dict[str, str]:
    text = (_ROOT / f"deploy/requirements/{name}.txt").read_text()
    return {match[1]: match[2] for match in re.finditer(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE)}


def _needed(distribution: str, *extras: str) -> dict[str, Requirement]:
    found: dict[str, Requirement] = {}
    for requirement in map(Requirement, requires(distribution) or ()):
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            continue
        if requirement.name.startswith("resonnx"):
            found |= _needed(requirement.name, *requirement.extras)
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
    ("name", "distribution", "extras", "elsewhere"),
    [("server", "resonnx-server", (), ()), ("export", "resonnx-export", ("demo",), ("torch",))],
)
def test_the_distributions_dependencies_are_listed(
    name: str, distribution: str, extras: tuple[str, ...], elsewhere: tuple[str, ...]
) -> None:
    """After a change of dependencies or constraints: make lock."""
    versions = _versions(name)
    for package, requirement in _needed(distribution, *extras).items():
        if package not in elsewhere:
            assert requirement.specifier.contains(versions[package]), package
    assert not versions.keys() & set(elsewhere)


@pytest.mark.parametrize("name", _LISTS)
def test_versions_are_those_that_are_tested(name: str) -> None:
    pinned = dict(
        line.lower().split("==") for line in (_ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    versions = _versions(name)
    assert {package: versions[package] for package in versions.keys() & pinned} == {
        package: pinned[package] for package in versions.keys() & pinned
    }


def test_the_images_have_one_version_of_each_package() -> None:
    server, export = _versions("server"), _versions("export")
    assert {name: server[name] for name in server.keys() & export} == {
        name: export[name] for name in server.keys() & export
    }


@pytest.mark.parametrize("room", ["server", "export"])
def test_images_install_by_hash_and_have_a_list_of_parts(room: str) -> None:
    text = (_ROOT / room / "Dockerfile").read_text().replace("\\\n", " ")
    installs = re.findall(r"pip (?:--python \S+ )?install ([^&\n]*)", text)
    assert len(installs) >= 3
    for arguments in installs:
        assert "--require-hashes" in arguments or "--no-index" in arguments, arguments
    assert "cyclonedx-py environment" in text
    assert "--output-file /app/sbom.cdx.json" in text
