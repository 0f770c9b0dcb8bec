"""The subcommands of `resonnx`, besides `bench`."""
