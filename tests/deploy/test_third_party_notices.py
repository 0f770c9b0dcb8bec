"""The licences that the container images carry: collected from the metadata of the installed packages."""

import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

_SCRIPT = Path(__file__).parents[2] / "deploy/third_party_notices.py"


def _run(folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run the script in an interpreter whose only packages are those of `folder`."""
    code = f"import runpy, sys; sys.path.insert(0, {str(folder)!r}); runpy.run_path({str(_SCRIPT)!r}, None, '__main__')"
    return subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60)


def _install(folder: Path, name: str, metadata: str, **files: str) -> None:
    information = folder / f"{name}-1.2.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.2\n{metadata}")
    for file, text in files.items():
        (information / file).write_text(text)
    (information / "RECORD").write_text("".join(f"{information.name}/{file},,\n" for file in files))


def test_each_package_is_listed_with_its_licence_and_texts(tmp_path: Path) -> None:
    _install(tmp_path, "expressed", "License-Expression: MIT\n", LICENSE="Copyright somebody", NOTICE="a notice")
    _install(tmp_path, "classified", "Classifier: License :: OSI Approved :: BSD License\n", COPYING="all rights")
    _install(tmp_path, "named", "License: Apache 2.0\n", README="not a licence")
    done = _run(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"^(\w+) 1\.2: (.+)$", done.stdout, re.MULTILINE) == [
        ("classified", "BSD License"),
        ("expressed", "MIT"),
        ("named", "Apache 2.0"),
    ]
    assert re.findall(r"^--- \S+/(\w+)$", done.stdout, re.MULTILINE) == ["COPYING", "LICENSE", "NOTICE"]
    assert "Copyright somebody" in done.stdout
    assert "not a licence" not in done.stdout


def test_a_package_without_a_licence_is_an_error(tmp_path: Path) -> None:
    _install(tmp_path, "unlicensed", "")
    done = _run(tmp_path)
    assert done.returncode == 1
    assert done.stderr == "third-party-notices: no licence in the metadata of unlicensed\n"


def test_what_the_server_depends_on_has_a_licence() -> None:
    done = subprocess.run([sys.executable, _SCRIPT], capture_output=True, text=True, timeout=60)
    for name in ("grpcio", "numpy", "onnxruntime", "pillow", "protobuf", "pydantic", "simplejpeg"):
        (section,) = re.findall(rf"^{name} {re.escape(distribution(name).version)}: (.+)$", done.stdout, re.M | re.I)
        assert section
