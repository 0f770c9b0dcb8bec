"""`resonnx-export module` with code that fails or does not fit, and files that would run code."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from ..checkpoints import hostile
from .conftest import assert_equal_to, module, net, run

FAULTY = {
    "no_attribute": ("", "net:Gone", "no attribute 'Gone'; it has"),
    "no_module": ("", "gone_package:Net", "ModuleNotFoundError"),
    "no_file": ("", "gone.py:Net", "no file"),
    "file_alone": ("", "net.py", "net.py:Class"),
    "no_target": ("", "Net", "package.module:attribute"),
    "raises_at_import": (
        "raise ValueError('three\\nlines\\nhere')",
        "net:Net",
        "ValueError: three; lines (net.py, line",
    ),
    "ends_at_import": ("import sys\nsys.exit(3)", "net:Net", "ended the process (exit 3)"),
    "raises_in_forward": ("Net.forward = lambda self, x: x.cuda_gone", "net:Net", "cuda_gone"),
    "wrong_argument": ("def broken(classes): return Net(widht=3)", "net:broken", "classes"),
    "no_module_returned": ("def nothing(): return 3", "net:nothing", "returned a int"),
    "a_number": ("N = 3", "net:N", "a torch.nn.Module, its class or a function is needed"),
    "random_in_eval": (
        "Net.forward = lambda s, x: s.head(nn.functional.dropout(s.stem(x).mean((2, 3))))",
        "net:Net",
        "each call",
    ),
    "softmax_inside": (
        "f = Net.forward\nNet.forward = lambda s, x: f(s, x).softmax(1)",
        "net:Net",
        "--activation none",
    ),
    "two_heads": (
        "f = Net.forward\nNet.forward = lambda s, x: {'age': f(s, x), 'sex': f(s, x)}",
        "net:Net",
        "2 outputs of 5 classes: a dict with age [2, 5], sex [2, 5]",
    ),
    "a_map": ("Net.forward = lambda s, x: s.stem(x)", "net:Net", "a tensor [2, 8, 16, 16]"),
    "data_dependent": (
        "f = Net.forward\nNet.forward = lambda s, x: f(s, x) if bool((x.sum() > 0)) else f(s, -x)",
        "net:Net",
        "cannot be traced",
    ),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_faults_end_in_one_line(
    fault: str, code: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added, target, said = FAULTY[fault]
    code.write_text(f"{code.read_text()}\n{added}\n")
    monkeypatch.chdir(code.parent)
    refused = module(target, labels, tmp_path)
    assert refused.exit_code == 2, refused.output
    # One line tells that the code runs, one what is wrong.
    lines = [line for line in refused.stderr.splitlines() if line.startswith("resonnx-export: ")]
    assert len(lines) == 2
    assert said in lines[1]
    assert not (tmp_path / "models").exists()


def test_objects_with_logits_and_tuples(code: Path, labels: Path, tmp_path: Path) -> None:
    code.write_text(
        code.read_text()
        + "from collections import namedtuple\nOut = namedtuple('Out', ['logits', 'aux'])\n"
        + "class Named(Net):\n    def forward(self, x):\n        y = super().forward(x)\n        return Out(y, 2 * y)\n"
        + "class Pair(Net):\n    def forward(self, x):\n        return self.stem(x).mean((2, 3)), super().forward(x)\n"
    )
    torch.save(net(code).state_dict(), tmp_path / "w.pth")
    for version, name in enumerate(("Named", "Pair"), start=1):
        done = module(f"{code}:{name}", labels, tmp_path, "--checkpoint", tmp_path / "w.pth")
        assert done.exit_code == 0, done.output
        assert_equal_to(tmp_path / "models" / "m" / str(version), net(code))


def test_checkpoints_that_do_not_fit(code: Path, labels: Path, tmp_path: Path) -> None:
    state = net(code).state_dict()
    for name, changed, said in (
        ("missing", {k: v for k, v in state.items() if k != "head.bias"}, "missing: head.bias"),
        ("unexpected", state | {"neck.weight": torch.ones(3)}, "unexpected: neck.weight"),
        ("shape", state | {"head.bias": torch.ones(9)}, "head.bias (expected [5], found [9])"),
        ("nothing", {"epoch": 3}, "no tensors"),
    ):
        torch.save(changed, tmp_path / f"{name}.pth")
        refused = module(f"{code}:Net", labels, tmp_path, "--checkpoint", tmp_path / f"{name}.pth")
        assert refused.exit_code == 2, refused.output
        assert said in refused.stderr
        assert ",;" not in refused.stderr


def test_no_other_command_runs_code(code: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pickles name a module that is on sys.path and leaves a mark when it is imported."""
    marker = tmp_path / "ran"
    trap = code.with_name("trap.py")
    trap.write_text(code.read_text() + f"\nimport pathlib\npathlib.Path({str(marker)!r}).touch()\n")
    whole, beside = tmp_path / "whole.pth", tmp_path / "beside.pth"
    monkeypatch.syspath_prepend(code.parent)
    made = importlib.import_module("trap").Net(5).eval()
    torch.save(made, whole)
    torch.save({"model": made, "state_dict": made.state_dict()}, beside)
    marker.unlink()
    del sys.modules["trap"]
    words = tmp_path / "words.txt"
    words.write_text("<pad>\n<start>\n<end>\n<unk>\na\n")
    common = ("--repository", tmp_path / "models", "--name", "m")
    for file in (whole, beside):
        run("inspect", file)
        assert run("classifier", file, "--labels", labels, *common).exit_code == 2
        assert run("captioner", file, "--vocab", words, *common).exit_code == 2
    # The weights alone are read from it, beside the code that the command line names.
    done = module(f"{code}:Net", labels, tmp_path, "--checkpoint", whole)
    assert done.exit_code == 0, done.output
    assert not marker.exists()
    assert "trap" not in sys.modules
    assert_equal_to(tmp_path / "models" / "m" / "1", made)


def test_hostile_checkpoints(code: Path, labels: Path, tmp_path: Path) -> None:
    path, marker = tmp_path / "w.pth", tmp_path / "ran"
    for called in ("os.system", "posix.system", "subprocess.check_output", "builtins.eval"):
        command = f"open({str(marker)!r}, 'w')" if called == "builtins.eval" else f"touch {marker}"
        path.write_bytes(hostile.archive(hostile.state_dict(hostile.call(called, hostile.text(command)))))
        refused = module(f"{code}:Net", labels, tmp_path, "--checkpoint", path)
        assert refused.exit_code == 2, refused.output
        assert "no tensors" in refused.stderr
    assert not marker.exists()
