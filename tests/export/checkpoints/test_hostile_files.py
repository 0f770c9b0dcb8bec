"""Damaged and hostile checkpoints: one message each, exit code 2, nothing run, nothing written.

A bit that flips in a tensor's values is no damage that a file without checksums can show: such a file is exported as
it stands, and equal to itself. In zip files it shows.
"""

import io
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from resonnx_export import classifier
from resonnx_export.checkpoints.files import load_checkpoint
from resonnx_export.cli import app
from resonnx_export.errors import ParityFailed
from resonnx_export.networks.resnet import ResNet
from safetensors.torch import save
from torch import Tensor
from typer.testing import CliRunner, Result

from . import hostile, hostile_forms

GIB = 1 << 30
# What would tell that a file's names are looked up or run.
EVENTS = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "pickle.find_class")
_heard: list[str] = []
_listening = False


def _listen(event: str, arguments: tuple[object, ...]) -> None:
    if _listening and event in EVENTS:
        _heard.append(event)


sys.addaudithook(_listen)


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Listen for what must not happen, and end an export that has read its file."""
    global _listening

    def stop(*_: object) -> bytes:
        raise ParityFailed("the file was read")

    monkeypatch.setattr(classifier, "trace_classifier", stop)
    _heard.clear()
    _listening = True
    yield
    _listening = False
    assert not _heard
    assert not (tmp_path / "marker").exists()


class Exporter:
    """Runs the command on files, and checks what holds for all of them."""

    def __init__(self, folder: Path, labels: Path) -> None:
        self.folder, self.path = folder, folder / "checkpoint.pth"
        self.arguments: tuple[object, ...] = ("classifier", self.path, "--labels", labels, "--size", 32)

    def run(self, content: bytes) -> Result:
        self.path.write_bytes(content)
        before = _memory("VmRSS")
        _forget_peak()
        target = ("--repository", self.folder / "models", "--name", "m")
        result = CliRunner().invoke(app, [str(each) for each in (*self.arguments, *target)])
        assert _memory("VmHWM") - before <= len(content) + GIB
        assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
        *progress, message = result.stderr.splitlines()
        assert len(progress) <= 2
        assert message.startswith("resonnx-export: ")
        assert message.isprintable()
        assert len(message) < 3000
        assert not (self.folder / "models").exists()
        return result

    def refuses(self, content: bytes) -> str:
        result = self.run(content)
        assert result.exit_code == 2, result.stderr
        return result.stderr.splitlines()[-1]


@pytest.fixture
def exporter(tmp_path: Path, labels_file: Path) -> Exporter:
    return Exporter(tmp_path, labels_file)


def _memory(field: str) -> int:
    """Return a field of this process's memory in bytes; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


def _forget_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


@pytest.fixture(scope="module")
def good(network: ResNet) -> dict[str, bytes]:
    """The same weights in each format."""
    state_dict = network.state_dict()
    files = {"safetensors": save(state_dict)}
    for name, new in (("zip", True), ("legacy", False)):
        buffer = io.BytesIO()
        torch.save(state_dict, buffer, _use_new_zipfile_serialization=new)
        files[name] = buffer.getvalue()
    return files


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_the_undamaged_files_are_read(kind: str, good: dict[str, bytes], exporter: Exporter) -> None:
    assert "the file was read" in exporter.run(good[kind]).stderr


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated(kind: str, good: dict[str, bytes], exporter: Exporter) -> None:
    content = good[kind]
    lengths = [0, 1, 2, 4, 7, 8, 9, 30, 64, 100, 1000, len(content) // 2, len(content) - 100, len(content) - 1]
    for length in lengths:
        message = exporter.refuses(content[:length])
        assert "empty" in message if length == 0 else "is " in message


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_flipped_bits(kind: str, good: dict[str, bytes], exporter: Exporter, network: ResNet) -> None:
    read = check_flips(kind, hostile.flipped(good[kind], 12), exporter, network.state_dict())
    assert read > 0 or kind == "zip"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_many_flipped_bits(kind: str, good: dict[str, bytes], exporter: Exporter, network: ResNet) -> None:
    # The part before the tensors' values, where each bit means something.
    head, tail = good[kind][:6000], good[kind][6000:]
    check_flips(kind, (each + tail for each in hostile.flipped(head, 700)), exporter, network.state_dict())


def check_flips(kind: str, contents: Iterator[bytes], exporter: Exporter, original: dict[str, Tensor]) -> int:
    """Return how many were read; each of them has the same tensors, but for values where no checksum is."""
    read = 0
    for content in contents:
        result = exporter.run(content)
        if result.exit_code == 2:
            continue
        assert "the file was read" in result.stderr
        read += 1
        state_dict = load_checkpoint(exporter.path).state_dict
        changed = [key for key in original if not torch.equal(original[key], state_dict.get(key, torch.empty(0)))]
        assert len(changed) <= (0 if kind == "zip" else 1)
    return read


@pytest.mark.parametrize("name", hostile.commands(""))
def test_commands(name: str, exporter: Exporter, tmp_path: Path) -> None:
    pickle = hostile.commands(str(tmp_path / "marker"))[name]
    for content in (hostile.archive(pickle), hostile.legacy(pickle), pickle):
        exporter.refuses(content)


@pytest.mark.parametrize("name", hostile.resources())
def test_resources(name: str, exporter: Exporter) -> None:
    pickle = hostile.resources()[name]
    exporter.refuses(hostile.archive(pickle))
    exporter.refuses(hostile.legacy(pickle))


@pytest.mark.parametrize("place", [pytest.param("checkpoint", marks=pytest.mark.slow), "vocabulary"])
def test_captioners_files(place: str, exporter: Exporter, captioner_file: Path, words_file: Path) -> None:
    files = (exporter.path, words_file) if place == "checkpoint" else (captioner_file, exporter.path)
    exporter.arguments = ("captioner", files[0], "--vocab", files[1])
    hostile_pickles = {**hostile.commands(str(exporter.folder / "marker")), **hostile.resources()}
    for pickle in hostile_pickles.values():
        exporter.refuses(hostile.archive(pickle) if place == "checkpoint" else pickle)


@pytest.mark.parametrize("name", hostile.tensors())
def test_tensors_outside_their_storage(name: str, exporter: Exporter) -> None:
    exporter.refuses(hostile.archive(hostile.tensors()[name], {"0": bytes(64)}))


def test_archives(exporter: Exporter) -> None:
    said = {name: exporter.refuses(content) for name, content in hostile.archives().items()}
    assert "would unpack to" in said["deflated zeros"]
    assert "would unpack to" in said["entries that overlap"]
    assert "TorchScript" in said["a script"]
    assert "torch.export" in said["an exported program"]
    assert "big-endian" in said["big endian"]
    assert "more entries" in said["a long directory"]
    assert "CRC" in said["another checksum"]


def wrong_keys(state_dict: dict[str, Tensor]) -> dict[str, tuple[dict[object, object], str]]:
    def without(*keys: str) -> dict[object, object]:
        return {key: value for key, value in state_dict.items() if key not in keys}

    def with_(**changes: object) -> dict[object, object]:
        return {**state_dict, **{key.replace("__", "."): value for key, value in changes.items()}}

    return {
        "none": ({}, "holds no state_dict"),
        "one missing": (without("layer2.0.bn2.bias"), "missing: layer2.0.bn2.bias"),
        "stem": (without("conv1.weight"), "missing: conv1.weight"),
        "one more": (with_(extra__weight=torch.ones(2)), "unexpected: extra.weight"),
        "a shape": (with_(layer2__0__conv1__weight=torch.ones(16, 8, 5, 5)), "wrong shape: layer2.0.conv1.weight"),
        "dimensions": (with_(conv1__weight=torch.ones(8)), "which no ResNet has"),
        "no channels": (with_(conv1__weight=torch.ones(8, 0, 3, 3)), "which no ResNet has"),
        "no size": (with_(conv1__weight=torch.tensor(1.0)), "which no ResNet has"),
        "far stage": (with_(layer9999__0__conv1__weight=torch.ones(1)), "stages"),
        "far block": (with_(layer1__9999__conv1__weight=torch.ones(1)), "not numbered"),
        "many stages": (
            {**state_dict, **{f"layer{i}.0.conv1.weight": torch.ones(1) for i in range(4, 60)}},
            "stages",
        ),
        "groups": (
            with_(layer1__0__conv3__weight=torch.ones(32, 9, 1, 1), layer1__0__conv2__weight=torch.ones(9, 4, 3, 3)),
            "",
        ),
        "gate": (with_(layer1__0__se__fc1__weight=torch.ones(2, 8, 1, 1)), "missing"),
        "head": (with_(fc__3__weight=torch.ones(7)), "unexpected: fc.3.weight"),
        "no tensor": (with_(fc__bias=None), "'fc.bias' is a NoneType, no tensor"),
        "numbers": (dict.fromkeys(state_dict, 1.0), "holds no state_dict"),
        "keys that are numbers": (dict(enumerate(state_dict.values())), "holds no state_dict"),
        "a list": ({"state_dict": list(state_dict.values())}, "holds no state_dict"),
        "two layouts": (with_(linear__weight=torch.ones(7, 32)), "2 heads were found, fc (7 outputs), linear"),
        "sparse": (with_(fc__bias=torch.ones(7).to_sparse()), "holds no state_dict"),
        "complex": (with_(fc__bias=torch.ones(7, dtype=torch.complex64)), "ComplexFloatStorage"),
        "other text": ({"\x1b[2J\r\n" * 100: torch.ones(1)}, "no known layout"),
    }


def test_wrong_keys(network: ResNet, exporter: Exporter) -> None:
    for name, (content, said) in wrong_keys(network.state_dict()).items():
        buffer = io.BytesIO()
        torch.save(content, buffer)
        assert said in exporter.refuses(buffer.getvalue()), name


@pytest.mark.parametrize("count", [40, pytest.param(340, marks=pytest.mark.slow)])
def test_damaged_forms(count: int, network: ResNet, exporter: Exporter) -> None:
    read = 0
    for what, content in hostile_forms.damaged(network.state_dict(), count):
        try:
            read += exporter.run(content).exit_code == 1
        except AssertionError as error:
            raise AssertionError(what) from error
    assert 0 < read < count / 2


def test_deep_containers(exporter: Exporter) -> None:
    exporter.refuses(hostile_forms.nested(100_000))


def test_other_files(exporter: Exporter) -> None:
    generator = torch.Generator().manual_seed(0)
    for start in (b"", b"\x80\x02", b"PK\x03\x04", b"\x80\x04\x95", b"(", b"}", b"\x10\0\0\0\0\0\0\0{"):
        for length in (10, 1000):
            noise = bytes(torch.randint(256, (length,), generator=generator).tolist())
            exporter.refuses(start + noise)


@pytest.mark.parametrize("key", [10**5000, "\ud800", ("a", -(10**5000))], ids=["digits", "half a character", "a tuple"])
def test_keys_that_cannot_be_printed(key: object, exporter: Exporter) -> None:
    torch.save({key: torch.ones(3)}, buffer := io.BytesIO())
    assert "cannot be printed" in exporter.refuses(buffer.getvalue())
