"""The dependencies. They are here because pyproject.toml cannot require the other distributions in this version."""

from pathlib import Path

from setuptools import setup

VERSION = (Path(__file__).parent / "VERSION").read_text().strip()

setup(
    install_requires=[
        "cryptography>=44",
        "jinja2>=3.1",
        "numpy>=2.0",
        "onnx>=1.19",
        "onnxscript>=0.5",
        "Pillow>=12.3",
        "protobuf>=6.31",
        f"resonnx-proto=={VERSION}",
        f"resonnx-server=={VERSION}",
        "safetensors>=0.5",
        "torch>=2.10",
        "tqdm>=4.66",
        "typer>=0.19",
    ]
)
