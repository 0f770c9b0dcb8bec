"""`resonnx-server tune` measures models thoroughly, prints their candidates, and keeps what a server then takes."""

from pathlib import Path

import pytest
from resonnx_server import command
from resonnx_server.checking.tuning import tune
from resonnx_server.config import Settings
from resonnx_server.repository.choosing.turns import ON_DEMAND, Effort, Raced
from resonnx_server.runtime.machine import host
from resonnx_server.runtime.machine.processor_time import ProcessorTime

from .. import answering

# As on demand, but short.
_SHORT = Effort(longest_s=0.5, most_turns=20, error=ON_DEMAND.error, asks_cache=False)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    answering.write(tmp_path / "models" / "m" / "1", 1)
    answering.write(tmp_path / "models" / "n" / "1", 2)
    return tmp_path / "models"


def _settings(repository: Path, **more: object) -> Settings:
    return Settings(**{"repository": repository, "cache_dir": repository.parent / "cache", "provider": "cpu", **more})


@pytest.fixture(autouse=True)
def kept_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test's thread keep its priority."""
    monkeypatch.setattr("resonnx_server.checking.tuning.compute_thread", lambda: None)
    monkeypatch.setattr(host, "usable_cores", lambda: 2)
    monkeypatch.setattr("resonnx_server.checking.tuning.usable_cores", lambda: 2)


def test_candidates_are_printed_and_choices_kept(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProcessorTime, "is_disturbed", False)
    monkeypatch.setattr(Raced, "is_doubtful", False)
    assert tune(_settings(repository), ["m"], _SHORT) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "m 1"
    assert lines[1].split()[:2] == ["for", "candidate"]
    subjects = [line.split(", ")[1].split()[0] for line in lines[2:-1]]
    assert subjects == ["throughput", "throughput", "latency", "latency"]
    chosen = [line for line in lines if "chosen after" in line]
    assert len(chosen) == 2
    assert all("  1.000  " in line for line in chosen)
    assert lines[-1] == f"kept in {repository.parent / 'cache'}"
    kept = {file.name.split("-")[0] for file in (repository.parent / "cache").iterdir()}
    assert kept == {"choice", "latency"}


def test_all_models_are_measured_and_doubts_are_told(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProcessorTime, "is_disturbed", True)
    assert tune(_settings(repository), [], _SHORT) == 1
    out = capsys.readouterr().out
    assert out.count("doubtful: other processes held the processors") == 2
    assert {"m 1", "n 1"} <= {*out.splitlines()}


def test_a_doubtful_choice_does_not_replace_one_beyond_doubt(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = repository.parent / "cache"
    first: set[Path] = set()
    for is_disturbed in (False, True):
        monkeypatch.setattr(ProcessorTime, "is_disturbed", is_disturbed)
        monkeypatch.setattr(Raced, "is_doubtful", is_disturbed)
        tune(_settings(repository), ["m"], _SHORT)
        first = first or {*cache.iterdir()}
        assert {file.name.partition("-")[0] for file in first} == {"choice", "latency"}
        # The second may also measure a session for the first time.
        assert all('"doubts": 0' in file.read_text() for file in first)


def test_a_version_that_is_refused_is_told(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "m" / "1" / "model.onnx").write_bytes(b"damaged")
    assert tune(_settings(repository), ["m"], _SHORT) == 1
    assert "m 1: refused: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "more", "reason"),
    [
        (["m", "xy"], {}, "has no model 'xy'"),
        (["photo"], {}, "has no model 'photo'; nearest is 'photos'"),
        ([], {"cache_dir": Path("none")}, "there is no cache_dir to keep choices in: set it to a folder (--cache-dir)"),
        ([], {"cache_dir": Path("/proc/cache")}, "cache_dir /proc/cache cannot be written to"),
    ],
)
def test_bad_arguments_are_refused(
    repository: Path, names: list[str], more: dict[str, object], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answering.write(repository / "photos" / "1", 3)
    assert tune(_settings(repository, **more), names, _SHORT) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("resonnx-server tune: ")
    assert reason in err
    assert len(err.splitlines()) == 1


def test_the_command_takes_names_and_flags(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "share_heaps", lambda _: None)
    flags = ["--repository", str(repository), "--cache-dir", str(repository.parent / "cache")]
    for arguments, reason in ((["x", *flags], "has no model 'x'"), (["m", *flags, "--port", "x"], "port")):
        with pytest.raises(SystemExit) as ended:
            command.tune(arguments, prog_name="resonnx-server tune")
        assert ended.value.code == 2
        assert reason in capsys.readouterr().err
