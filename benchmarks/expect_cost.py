"""Cost of an export that is compared with answers of the user's own model: ResNet-50 in fp32, 64 pictures of 224x224.

    python benchmarks/expect_cost.py [--pictures 64]

Weights are random with settled BatchNorm. The answers are recorded with `preprocess`, so that other normalisations
are tried, too. Prints the seconds and the peak memory of the command; exit status 1 if a target is missed.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from resonnx_export import record
from resonnx_export.networks.resnet import ARCHITECTURES, ResNet
from resonnx_export.pictures.recipe import image_input
from resonnx_export.pictures.synthetic import check_pictures
from resonnx_export.proof.reference import normalise, settle_batch_norm
from safetensors.torch import save_file

_SIZE = 224
_MOST_SECONDS = 60
_MOST_GIB = 4.0


def _write_inputs(folder: Path, pictures: int) -> None:
    """Write resnet50.safetensors, labels.txt and answers.npz."""
    recipe = image_input(_SIZE, resize_short_side=256)
    network = ResNet(ARCHITECTURES["resnet50"])
    settle_batch_norm(network, (normalise(check_pictures(recipe, 8, seed), recipe) for seed in range(2)))
    save_file(network.state_dict(), folder / "resnet50.safetensors")
    (folder / "labels.txt").write_text("".join(f"class {number}\n" for number in range(network.num_classes)))

    def preprocess(picture: Image.Image) -> torch.Tensor:
        return normalise(np.asarray(picture)[None], recipe)[0]

    record(network, check_pictures(recipe, pictures, seed=9), folder / "answers.npz", preprocess=preprocess)


def main() -> None:
    """Export once and compare the cost with the targets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=64)
    pictures = parser.parse_args().pictures
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_inputs(folder, pictures)
        command = [sys.executable, "-m", "resonnx_export", "classifier", str(folder / "resnet50.safetensors")]
        command += ["--labels", str(folder / "labels.txt"), "--repository", str(folder / "models"), "--name", "r"]
        start = time.perf_counter()
        subprocess.run([*command, "--expect", str(folder / "answers.npz")], check=True, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
    gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"load average {os.getloadavg()[0]:.1f}")
    print(f"export with {pictures} answers: {seconds:.0f} s (at most {_MOST_SECONDS} s)")
    print(f"peak memory: {gib:.1f} GiB (at most {_MOST_GIB:g} GiB)")
    if seconds > _MOST_SECONDS or gib > _MOST_GIB:
        sys.exit(1)


if __name__ == "__main__":
    main()
