"""The classifiers that benchmarks serve: real architectures with random weights, exported by resonnx-export.

    resnet50         ResNet-50 at 224x224, 1,000 classes
    resnet50_int8    the same, quantised by the exporter
    small            ResNet-18 at 32x32, 10 classes
    resnet18_64      ResNet-18 at 64x64, 10 classes: 44.7 MB
    NAME_float       the bare graph of NAME behind its preprocessing: takes FP32 [N,3,H,W]

Random weights cost the same to run as trained ones. BatchNorm statistics are settled, so that activations have the
sizes of a trained network's.
"""

import dataclasses
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx
import torch
from pictures.photographs import write_pictures
from resonnx_export.networks.resnet import ARCHITECTURES, ResNet
from resonnx_export.proof.reference import settle_batch_norm
from safetensors.torch import save_file

# What the exporter asks for.
_CALIBRATION_PICTURES = 64
_PREPROCESSING = ("Reshape", "Split", "Concat", "Cast", "Mul", "Add", "Transpose")
_MODELS = {"resnet50": ("resnet50", 224, 1000), "small": ("resnet18", 32, 10), "resnet18_64": ("resnet18", 64, 10)}


def repository(names: tuple[str, ...], folder: Path = Path("benchmarks/.models")) -> Path:
    """Return a model repository that holds `names`; missing ones are exported (ResNet-50: half a minute).

    Raises:
        subprocess.CalledProcessError: The exporter refuses.
    """
    for name in names:
        if (folder / name / "1").exists():
            continue
        if name.endswith("_float"):
            base = name.removesuffix("_float")
            _write_float_graph(repository((base,), folder) / base / "1/model.onnx", folder / name / "1/model.onnx")
        else:
            _export(name.removesuffix("_int8"), folder, name, int8=name.endswith("_int8"))
    return folder


def _export(origin: str, folder: Path, name: str, *, int8: bool) -> None:
    architecture, size, classes = _MODELS[origin]
    torch.manual_seed(0)
    network = ResNet(dataclasses.replace(ARCHITECTURES[architecture], num_classes=classes))
    settle_batch_norm(network, [torch.randn(4, 3, size, size) for _ in range(2)])
    with tempfile.TemporaryDirectory() as scratch:
        file, labels = Path(scratch) / "random.safetensors", Path(scratch) / "labels.txt"
        save_file(network.state_dict(), file)
        labels.write_text("".join(f"class {i}\n" for i in range(classes)))
        command = [sys.executable, "-m", "resonnx_export", "classifier", str(file), "--labels", str(labels)]
        command += ["--repository", str(folder), "--name", name, "--size", str(size)]
        command += ["--resize-short-side", "256"] if size >= 64 else ["--stretch"]
        if int8:
            write_pictures(Path(scratch), _CALIBRATION_PICTURES)
            # Random networks agree on nothing: here the speed counts, and the rest is as with a trained one.
            command += ["--precision", "int8", "--calibration", scratch, "--min-agreement", "0"]
        print(f"exporting {name}", flush=True)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _write_float_graph(source: Path, target: Path) -> None:
    """Cut a classifier's graph at the network's input: normalisation and transposition are dropped.

    A network that reads blocks of 2x2 pixels (export/resonnx_export/graphs/pixel_blocks.py) gets them from the planes.
    """
    model = onnx.load(source)
    graph = model.graph
    blocks = any(node.op_type == "Concat" and node.name.startswith("node_pixel_blocks") for node in graph.node)
    picture = "image"
    while (node := next(node for node in graph.node if picture in node.input)).op_type in _PREPROCESSING:
        graph.node.remove(node)
        picture = node.output[0]
    for node in graph.node:
        for i, taken in enumerate(node.input):
            if taken == picture:
                node.input[i] = "blocks" if blocks else "image"
    if blocks:
        graph.node.insert(0, onnx.helper.make_node("SpaceToDepth", ["image"], ["blocks"], blocksize=2))
    axes = [axis.dim_param or axis.dim_value for axis in graph.input[0].type.tensor_type.shape.dim]
    batch, height, width, channels = axes
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [batch, channels, height, width])
    graph.input[0].CopyFrom(image)
    used = {taken for node in graph.node for taken in node.input}
    for constant in [constant for constant in graph.initializer if constant.name not in used]:
        graph.initializer.remove(constant)
    del graph.value_info[:]
    onnx.checker.check_model(model)
    target.parent.mkdir(parents=True)
    onnx.save(model, target)
