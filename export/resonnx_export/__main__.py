"""`python -m resonnx_export` is `resonnx-export`."""

from resonnx_export.cli import main

main()
