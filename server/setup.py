"""The dependencies. They are here because pyproject.toml cannot require the other distributions in this version."""

from pathlib import Path

from setuptools import setup

VERSION = (Path(__file__).parent / "VERSION").read_text().strip()

setup(
    install_requires=[
        "aiohttp>=3.10",
        "cryptography>=44",
        # Earlier ones decompress gzip without a bound.
        "grpcio>=1.83",
        "grpcio-health-checking>=1.78",
        "grpcio-reflection>=1.78",
        "grpcio-status>=1.78",
        "numpy>=2.0",
        "Pillow>=12.3",
        "prometheus-client>=0.22",
        "protobuf>=6.31",
        "pydantic>=2.10",
        "pydantic-settings>=2.11",
        f"resonnx-proto=={VERSION}",
        "simplejpeg>=1.9",
        "typer>=0.15",
    ]
)
