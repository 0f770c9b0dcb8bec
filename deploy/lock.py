"""`make lock`: writes deploy/requirements/*.txt, the images' packages with versions and the sha256 of all their files.

Versions are what pip finds for the distributions' own dependencies within constraints.txt, for the Python that runs
this, which must be that of the images: 3.11 on Linux x86-64. The sha256 are those that the package index states on its
pages, in the form that every index has (PEP 503); a package without any is named, and nothing is written.

    server.txt     the server, without ONNX Runtime
    client.txt     the client
    export.txt     the exporter, without ONNX Runtime and torch, whose CPU and CUDA builds have one version, other files
    cpu.txt, gpu.txt, openvino.txt    ONNX Runtime of that extra, of which an image has one
    otel.txt       what exports traces, for the server's images
    build.txt      what builds our wheels and the list of parts (SBOM)
"""

import json
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from html.parser import HTMLParser
from importlib.metadata import requires
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version

from deploy.torch_index import torch_index

_ROOT: Final = Path(__file__).resolve().parents[1]
_FOLDER: Final = _ROOT / "deploy/requirements"
_PYPI: Final = "https://pypi.org/simple"
_EXTRAS: Final = ("cpu", "gpu", "openvino", "otel")
_BUILD: Final = ("setuptools", "wheel", "cyclonedx-bom")

Versions = dict[str, Version]


class NoHash(Exception):
    """Packages of which the index states no sha256."""


class _Links(HTMLParser):
    """Collects name of file → sha256 of a page of a package index."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take a link whose fragment states a sha256."""
        address = urllib.parse.urlsplit(dict(attrs).get("href") or "")
        if tag == "a" and address.fragment.startswith("sha256="):
            name = urllib.parse.unquote(address.path.rpartition("/")[2])
            self.found[name] = address.fragment.removeprefix("sha256=")


def needed(distribution: str) -> Iterator[str]:
    """Yield what one of our distributions requires without extras, and what ours that it needs require."""
    for requirement in map(Requirement, requires(distribution) or ()):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        if requirement.name.startswith("resonnx"):
            yield from needed(requirement.name)
        else:
            requirement.marker = None
            yield str(requirement)


def extra(distribution: str, name: str) -> Iterator[str]:
    """Yield what an extra adds."""
    for line in requires(distribution) or ():
        if f'extra == "{name}"' in line:
            yield line.partition(";")[0]


def resolve(wanted: Iterable[str], fixed: Mapping[str, Version]) -> Versions:
    """Return the versions that pip would install into an empty environment, by name.

    Args:
        wanted: Requirements.
        fixed: Versions that are given if a package is needed, beside those of constraints.txt.
    """
    constraints = [line for line in (_ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    constraints += [f"{name}=={version}" for name, version in fixed.items()]
    with tempfile.TemporaryDirectory() as folder:
        given, report = Path(folder, "constraints.txt"), Path(folder, "report.json")
        given.write_text("\n".join(constraints) + "\n")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--report", str(report), "--constraint", str(given)]
        # Its packages need no CUDA.
        if (index := torch_index()) is not None:
            command += ["--extra-index-url", index]
        subprocess.run([*command, *wanted], check=True)
        found = json.loads(report.read_text())["install"]
    named = {canonicalize_name(each["metadata"]["name"]): Version(each["metadata"]["version"]) for each in found}
    return {name: named[name] for name in sorted(named) if name != "torch"}


def index_url() -> str:
    """Return pip's package index."""
    settings = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    stated = [line.partition("=")[2].strip("'\"") for line in settings.splitlines() if ".index-url=" in line]
    return (stated[-1] if stated else _PYPI).rstrip("/")


def hashes(index: str, name: str, version: Version) -> list[str]:
    """Return the sha256 of all files of a version that the page of a package states, sorted."""
    request = urllib.request.Request(f"{index}/{name}/", headers={"Accept": "text/html"})  # noqa: S310 (pip's own index)
    with urllib.request.urlopen(request, timeout=60) as page:  # noqa: S310
        links = _Links()
        links.feed(page.read().decode())
    return sorted({sha256 for file, sha256 in links.found.items() if _version(file) == version})


def _version(file: str) -> Version | None:
    try:
        return parse_wheel_filename(file)[1] if file.endswith(".whl") else parse_sdist_filename(file)[1]
    except (InvalidWheelFilename, InvalidSdistFilename):
        # A format of old.
        return None


def listed(versions: Versions, index: str) -> str:
    """Return a list of packages as pip's --require-hashes reads it.

    Raises:
        NoHash: The index states no sha256 of a package.
    """
    found = {name: hashes(index, name, version) for name, version in versions.items()}
    if missing := [f"{name} {versions[name]}" for name, stated in found.items() if not stated]:
        raise NoHash(f"{index} states no sha256 of {', '.join(missing)}")
    return "".join(
        f"{name}=={versions[name]} \\\n" + " \\\n".join(f"    --hash=sha256:{each}" for each in stated) + "\n"
        for name, stated in found.items()
    )


def main() -> int:
    """Write the lists; return the exit status."""
    if sys.version_info[:2] != (3, 11):
        print(f"make lock: the images have Python 3.11, and this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    index = index_url()
    server = resolve(needed("resonnx-server"), {})
    lists = {
        "server": server,
        "client": resolve(needed("resonnx"), server),
        "export": resolve(needed("resonnx-export"), server),
        **{name: resolve(extra("resonnx-server", name), server) for name in _EXTRAS},
        "build": resolve(_BUILD, {}),
    }
    try:
        written = {name: listed(versions, index) for name, versions in lists.items()}
    except NoHash as missing:
        print(f"make lock: {missing}", file=sys.stderr)
        return 1
    for name, text in written.items():
        (_FOLDER / f"{name}.txt").write_text(text)
        print(f"deploy/requirements/{name}.txt: {len(lists[name])} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
