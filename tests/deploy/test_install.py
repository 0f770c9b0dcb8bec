"""`deploy/install` on a fresh clone, a moved clone and with an old Python; Pythons and pip are fakes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_NEEDED = [
    "constraints.txt",
    "tests/requirements.txt",
    "VERSION",
    "deploy/torch_index.py",
    *(f"{r}/pyproject.toml" for r in ("proto", "server", "export", "client")),
    *(f"{r}/setup.py" for r in ("server", "export", "client")),
]

# A fake Python of another version. Code of -c runs in the real one; `-m venv` makes an environment with the fake; pip
# logs its arguments and the folder of its temporary files; torch's index is one that was given.
_PYTHON = """\
#!/bin/sh
while [ "$1" = --disable-pip-version-check ]; do shift; done
case "$1 $2" in
"-c import venv, ensurepip") {venv} ;;
"-c "*) exec {real} -c 'import sys; sys.version_info = (3, {minor}, 9); exec(sys.argv[1])' "$2" ;;
"deploy/torch_index.py "*) echo "${{TORCH_INDEX_URL:-{index}}}" ;;
"-m venv")
    for folder; do :; done
    rm -rf "$folder"; mkdir -p "$folder/bin"
    echo made by 3.{minor} >"$folder/pyvenv.cfg"
    echo "VIRTUAL_ENV=$PWD/$folder" >"$folder/bin/activate"
    cp "$0" "$folder/bin/python" ;;
"-m pip")
    [ -d "$TMPDIR" ] || exit 9
    echo "$TMPDIR $*" >>pip.log
    {pip} ;;
esac
"""


class Clone:
    """A folder with the files that `deploy/install` needs, and the programs on its PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "clone"
        self.programs = folder / "programs"
        self.programs.mkdir()
        for name in (*_NEEDED, "deploy/install", "Makefile"):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(_ROOT / name, self.folder / name)
        for tool in ("sh", "dirname", "cksum", "head", "tail", "cat", "grep", "mkdir", "rm", "cp", "uname", "make"):
            (self.programs / tool).symlink_to(str(shutil.which(tool)))

    def python(
        self, minor: int, name: str = "python3", venv: str = "exit 0", pip: str = "exit 0", index: str = ""
    ) -> None:
        """Add a Python 3.`minor` to the PATH."""
        program = self.programs / name
        program.write_text(_PYTHON.format(real=sys.executable, minor=minor, venv=venv, pip=pip, index=index))
        program.chmod(0o755)

    def run(self, *command: str, **variables: str) -> tuple[int, str]:
        """Run the installation and return the exit status and the output."""
        environment = {"PATH": str(self.programs), **variables}
        done = subprocess.run(
            command or ("deploy/install",),
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout

    def installed(self) -> list[str]:
        """Return the arguments of pip since the last call."""
        log = self.folder / "pip.log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    @property
    def made_by(self) -> str:
        return (self.folder / ".venv/pyvenv.cfg").read_text().split()[-1]


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_a_fresh_clone_is_installed_once(clone: Clone) -> None:
    clone.python(11)
    assert clone.run()[0] == 0
    *_, last = clone.installed()
    assert last.endswith("-e ./proto -e ./server[cpu,openvino-plugin] -e ./export[cpu] -e ./client[bench]")
    assert "-c constraints.txt -r tests/requirements.txt" in last
    assert clone.run() == (0, "")
    assert clone.installed() == []


def test_what_is_needed_has_changed(clone: Clone) -> None:
    clone.python(12)
    clone.run()
    clone.installed()
    kept = clone.folder / ".venv/kept"
    kept.touch()
    for name in _NEEDED:
        with (clone.folder / name).open("a") as file:
            file.write("# another\n")
        assert clone.run()[0] == 0
        assert clone.installed()
        assert kept.exists(), "only what changed is installed"


def test_an_old_python_is_told_at_once_and_a_newer_one_works(clone: Clone) -> None:
    clone.python(10)
    status, said = clone.run()
    assert status == 1
    assert said.startswith("install: Python 3.11 or newer is needed, this is 3.10 (")
    assert not (clone.folder / ".venv").exists()
    assert clone.installed() == []
    clone.python(13, "python3.13")
    assert clone.run()[1].endswith("make PYTHON=python3.13\n"), "one that is there is named"
    assert clone.run(PYTHON="python3.13")[0] == 0
    assert clone.made_by == "3.13"
    assert clone.run() == (0, ""), "from now on it needs no name"


def test_an_environment_of_an_old_python_is_made_anew(clone: Clone) -> None:
    """Earlier versions of the Makefile created one."""
    clone.python(10)
    subprocess.run(["python3", "-m", "venv", ".venv"], cwd=clone.folder, env={"PATH": f"{clone.programs}"}, check=True)
    (clone.folder / ".venv/.installed").touch()
    assert clone.run()[0] == 1
    clone.python(12)
    status, said = clone.run()
    assert status == 0
    assert "making it anew" in said
    assert clone.made_by == "3.12"


@pytest.mark.parametrize("stamp", [True, False])
def test_an_environment_whose_python_is_gone_is_made_anew(clone: Clone, stamp: bool) -> None:
    clone.python(12)
    clone.run()
    (clone.folder / ".venv/bin/python").unlink()
    (clone.folder / ".venv/bin/python").symlink_to("/gone/python3.12")
    if not stamp:
        (clone.folder / ".venv/.installed").unlink()
    clone.python(14)
    assert clone.run()[0] == 0
    assert clone.made_by == "3.14"


def test_a_moved_clone_is_installed_anew(clone: Clone) -> None:
    """Scripts and editable installations hold absolute paths."""
    clone.python(12)
    clone.run()
    clone.installed()
    clone.folder = clone.folder.rename(clone.folder.with_name("moved"))
    status, said = clone.run()
    assert status == 0
    assert "making it anew" in said
    assert clone.installed()
    assert str(clone.folder) in (clone.folder / ".venv/bin/activate").read_text()
    assert clone.run() == (0, "")


def test_an_installation_that_failed_goes_on_next_time(clone: Clone) -> None:
    clone.python(12, pip="exit 7")
    assert clone.run()[0] != 0
    assert not (clone.folder / ".venv/.installed").exists()
    clone.python(12)
    shutil.copy(clone.programs / "python3", clone.folder / ".venv/bin/python")
    (clone.folder / ".venv/kept").touch()
    assert clone.run()[0] == 0
    assert (clone.folder / ".venv/kept").exists()
    assert clone.run() == (0, "")


def test_temporary_files_lie_beside_the_environment(clone: Clone) -> None:
    """A small file system in memory at /tmp cannot hold them."""
    clone.python(12)
    assert clone.run(TMPDIR="/dev/null")[0] == 0
    assert {line.split()[0] for line in clone.installed()} == {str(clone.folder / ".venv/tmp")}
    assert not (clone.folder / ".venv/tmp").exists()


def test_a_python_without_venv_is_told(clone: Clone) -> None:
    """For example Debian's."""
    clone.python(12, venv="exit 1")
    status, said = clone.run()
    assert status == 1
    assert "apt install python3-venv (or python3.12-venv)" in said
    assert not (clone.folder / ".venv").exists()


def test_no_python_is_told(clone: Clone) -> None:
    status, said = clone.run()
    assert status == 1
    assert said.startswith("install: there is no python3: install Python 3.11 or newer")


def test_what_is_no_environment_is_left_alone(clone: Clone) -> None:
    clone.python(12)
    (clone.folder / ".venv").mkdir()
    (clone.folder / ".venv/mine").touch()
    status, said = clone.run()
    assert status == 1
    assert "move it away" in said
    assert (clone.folder / ".venv/mine").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere PyTorch is small")
def test_gigabytes_do_not_come_in_silence(clone: Clone) -> None:
    clone.python(12)
    _, said = clone.run()
    assert "3 GB" in said
    assert "https://download.pytorch.org/whl/cpu, with PyTorch's CPU builds (0.2 GB), does not answer" in said
    assert "make run TORCH_INDEX_URL=URL" in said
    assert not any("--quiet" in line for line in clone.installed() if "torch" in line or "-e ./" in line)


def test_an_index_of_cpu_builds_is_asked_for_torch_alone(clone: Clone) -> None:
    clone.python(12)
    _, said = clone.run(TORCH_INDEX_URL="https://example.test/cpu")
    assert "CUDA" not in said
    asked = [line for line in clone.installed() if "--index-url" in line]
    assert len(asked) == 1
    assert asked[0].endswith("install -c constraints.txt torch --index-url https://example.test/cpu")


def test_pytorchs_index_of_cpu_builds_is_taken_where_it_answers(clone: Clone) -> None:
    clone.python(12, index="https://pytorch.test/cpu")
    _, said = clone.run()
    assert "CUDA" not in said
    first, last = [line for line in clone.installed() if "upgrade pip" not in line]
    assert first.endswith("install -c constraints.txt torch --index-url https://pytorch.test/cpu")
    assert "-e ./server" in last


@pytest.mark.parametrize(("variables", "status"), [({}, 0), ({"TORCH_INDEX_URL": "https://example.test/cpu"}, 1)])
def test_an_index_without_the_version_matters_if_it_was_asked_for(
    clone: Clone, variables: dict[str, str], status: int
) -> None:
    clone.python(12, index="https://pytorch.test/cpu", pip='case "$*" in *--index-url*) exit 1 ;; esac')
    assert clone.run(**variables)[0] == status
    assert any("-e ./server" in line for line in clone.installed()) == (status == 0)


def test_make_installs_with_its_variables(clone: Clone) -> None:
    clone.python(10)
    clone.python(12, "mine")
    status, said = clone.run("make", "lint")
    assert status == 2
    assert "this is 3.10" in said
    _, said = clone.run("make", "lint", "PYTHON=mine", "TORCH_INDEX_URL=https://example.test/cpu")
    assert clone.made_by == "3.12"
    assert any("https://example.test/cpu" in line for line in clone.installed())


def test_it_can_be_run() -> None:
    assert os.access(_ROOT / "deploy/install", os.X_OK)
