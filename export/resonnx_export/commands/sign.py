"""The commands `resonnx-export sign` and `resonnx-export new-key`."""

from pathlib import Path
from typing import Annotated

import typer

from resonnx_export.wording import printable


def sign(
    folders: Annotated[list[Path], typer.Argument(help="Versions' folders: MODELS/NAME/1.", metavar="MODEL_DIR...")],
    key: Annotated[Path, typer.Option(metavar="FILE", help="The private key, as `new-key` writes it.")],
) -> None:
    """Sign versions, so that servers whose trusted_keys have the public key serve them."""
    from resonnx_export.publish.signing import sign_version

    for folder in folders:
        fingerprint = sign_version(folder, key)
        typer.echo(printable(f"{folder}: signed by {fingerprint}"))


def new_key(
    path: Annotated[Path, typer.Argument(help="File of the private key; the public one is FILE.pub.", metavar="FILE")],
) -> None:
    """Make a key pair for `sign`: FILE, to be kept secret, and FILE.pub, for the server's trusted_keys."""
    from resonnx_export.publish.signing import write_new_key

    public, fingerprint = write_new_key(path)
    typer.echo(printable(f"{path}: private key; keep it secret, away from the server"))
    typer.echo(printable(f"{public}: public key {fingerprint}; start servers with --trusted-keys {public}"))
