"""`python -m resonnx` is `resonnx`."""

from resonnx.cli import main

main()
