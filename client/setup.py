"""The dependencies. They are here because pyproject.toml cannot require the other distributions in this version."""

from pathlib import Path

from setuptools import setup

VERSION = (Path(__file__).parent / "VERSION").read_text().strip()

setup(
    install_requires=[
        # The google.rpc messages inside grpc-status-details-bin.
        "googleapis-common-protos>=1.63",
        "grpcio>=1.83",
        "grpcio-health-checking>=1.78",
        "protobuf>=6.31",
        f"resonnx-proto=={VERSION}",
        "rich>=13",
        "typer>=0.15",
    ]
)
