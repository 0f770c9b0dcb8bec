"""A folder as the documents assume it: demo models, samples, checkpoints, and the programs of `commands.py`."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from resonnx_export.networks.resnet import ARCHITECTURES

from ..conftest import RunningServer, shared_folder
from ..export.caption_exports import SGRVINOD, YUNJEY, write_vocabulary
from ..export.conftest import LABELS, random_network, seeded
from ..export.layouts.caption_sources.tutorials import PictureEncoder, WordDecoder
from ..export.layouts.captioners import caption_checkpoints
from .commands import NAMES, ROOT


@dataclass
class Workplace:
    """The folder, and the variables of programs that run in it."""

    folder: Path
    environment: dict[str, str]

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in the folder."""
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=280
        )

    @property
    def server(self) -> dict[str, str]:
        """The addresses of the server that the page has started last, or of the shared one."""
        started = self.folder / "server.json"
        addresses: dict[str, str] = json.loads(
            started.read_text() if started.exists() else self.environment["DOCS_SERVER"]
        )
        return addresses


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with the names that the documents use; the networks are small, and their weights random."""
    folder = tmp_path_factory.mktemp("checkpoints")
    network = random_network(replace(ARCHITECTURES["resnet18"], planes=8, num_classes=len(LABELS)), size=64)
    torch.save(network.state_dict(), folder / "resnet50.pth")
    shutil.copy(ROOT / "tests/docs/my_code.py", folder)
    (folder / "imagenet.txt").write_text("\n".join(LABELS) + "\n")
    with seeded(), pytest.MonkeyPatch.context() as patch:
        # The size of the recipe, so that captions of such pictures vary.
        patch.setattr(caption_checkpoints, "SIZE", 224)
        encoder = PictureEncoder(24, linear="linear", bn="bn")
        decoder = WordDecoder(("embed", "lstm", "linear"), torch.nn.LSTM(24, 32, batch_first=True), len(YUNJEY))
        with torch.no_grad():
            caption_checkpoints.animate(encoder, decoder, YUNJEY)
        for name, module in (("encoder", encoder), ("decoder", decoder)):
            torch.save(module.state_dict(), folder / f"{name}-5-3000.pkl")
    write_vocabulary(folder / "vocab.pkl", "__main__", YUNJEY)
    _write_tutorials(folder)
    rng = np.random.default_rng(5)
    for i in range(16):
        (folder / "pictures" / LABELS[i % 4]).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rng.integers(0, 256, (240, 260, 3), np.uint8))
        image.save(folder / "pictures" / LABELS[i % 4] / f"{i}.png")
    image.save(folder / "cat.jpg")
    return folder


def _write_tutorials(folder: Path) -> None:
    """Write the code, the checkpoints and the words of docs/adapters.md."""
    for path in (ROOT / "tests/export/user_code/tutorials").glob("*.py"):
        shutil.copy(path, folder)
    sources = ROOT / "tests/export/layouts/caption_sources"
    shutil.copytree(sources, folder / sources.name, ignore=shutil.ignore_patterns("__pycache__"))
    save = "import captioner, models; models.save(); captioner.save()"
    subprocess.run([sys.executable, "-c", save], cwd=folder, check=True, timeout=120)
    (folder / "WORDMAP_coco.json").write_text(json.dumps({word: i for i, word in enumerate(SGRVINOD)}))
    (folder / "flickr8k.txt").write_text("\n".join(YUNJEY))


@pytest.fixture
def workplace(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    demo_repository: Path,
    demo_server: RunningServer,
    samples: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Workplace]:
    """A new folder for one page; servers that the page starts end with it."""
    folder = tmp_path / "clone"
    folder.mkdir()
    if request.node.get_closest_marker("slow"):
        # Others export nothing.
        shutil.copytree(request.getfixturevalue("checkpoints"), folder, dirs_exist_ok=True)
    shutil.copytree(demo_repository, folder / "models")
    shutil.copytree(samples, folder / "models/.samples")
    if request.node.get_closest_marker("slow"):
        # For servers that the page starts.
        shutil.copytree(request.getfixturevalue("video_repository"), folder / "models", dirs_exist_ok=True)
        shutil.copy(samples / "clips/01.webp", folder / "clip.webp")
    for name in ("proto", "client", "benchmarks", "deploy"):
        (folder / name).symlink_to(ROOT / name)
    programs = folder / ".venv/bin"
    programs.mkdir(parents=True)
    (programs / "activate").touch()
    for name in NAMES:
        script = f'#!/bin/sh\nexec "{sys.executable}" "{ROOT}/tests/docs/commands.py" {name} "$@"\n'
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "DOCS_PATH": os.environ["PATH"],
        "RESONNX_PROVIDER": "cpu",
        "RESONNX_CACHE_DIR": str(shared_folder(tmp_path_factory) / "tables"),
        "DOCS_SERVER": json.dumps({"grpc": demo_server.grpc, "http": demo_server.http}),
    }
    try:
        yield Workplace(folder, environment)
    finally:
        started = folder / "servers"
        for pid in started.read_text().split() if started.exists() else []:
            os.kill(int(pid), signal.SIGKILL)
