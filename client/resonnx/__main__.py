"""Runs the `resonnx` command as `python -m resonnx`."""

from resonnx.cli import main

main()
