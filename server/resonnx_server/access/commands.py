"""The commands `resonnx-server keys …`."""

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from resonnx_server.access.caller import DEFAULT_PRIORITY, Role
from resonnx_server.access.keys import KeysFault, check_name, digest_of, new_key, read_entries, read_keys

app = typer.Typer(
    no_args_is_help=True,
    help="Make API keys for the setting keys_file.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _keys() -> None:
    # With one command alone, Typer would drop its name.
    pass


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the caller, in metrics and logs.")],
    role: Annotated[
        list[Role] | None, typer.Option(help="What it may do; repeat for several.  [default: infer, read]")
    ] = None,
    best_priority: Annotated[
        int, typer.Option(min=1, max=8, help="Most urgent priority that it may ask for; 1 is the first.")
    ] = DEFAULT_PRIORITY,
    model: Annotated[
        list[str] | None, typer.Option(help="A model that it may use; repeat for several.  [default: all]")
    ] = None,
    rate_per_s: Annotated[float | None, typer.Option(min=1e-6, max=1e6, help="Most requests a second.")] = None,
    max_concurrent: Annotated[int | None, typer.Option(min=1, max=1_000_000, help="Most requests at a time.")] = None,
    file: Annotated[Path | None, typer.Option(help="Keys file to add the entry to; it is created if missing.")] = None,
) -> None:
    """Make a key. It is printed once and cannot be shown again: the file has its hash only.

    Without --file, the entry for the keys file is printed after it.
    """
    key = new_key()
    lines = [f'sha256 = "{digest_of(key).hex()}"']
    if role:
        lines.append(f"roles = {_array(role)}")
    if best_priority != DEFAULT_PRIORITY:
        lines.append(f"best_priority = {best_priority}")
    if model:
        lines.append(f"models = {_array(model)}")
    if rate_per_s is not None:
        lines.append(f"rate_per_s = {rate_per_s}")
    if max_concurrent is not None:
        lines.append(f"max_concurrent = {max_concurrent}")
    entry = "\n".join([f'[keys."{name}"]', *lines, ""])
    try:
        check_name(name, "NAME")
        if file is not None:
            _add(file, name, entry)
    except (KeysFault, OSError) as fault:
        typer.echo(f"resonnx-server: {fault}", err=True)
        raise typer.Exit(2) from None
    typer.echo(key)
    if file is None:
        typer.echo(f"\n{entry}", nl=False)


def _array(values: Iterable[str]) -> str:
    # JSON's strings are TOML's.
    return json.dumps([*values], ensure_ascii=False)


def _add(path: Path, name: str, entry: str) -> None:
    """Replace the file by one that has the entry as well, so that a server never reads half of it."""
    former = path.read_text() if path.exists() else ""
    if former and name in read_entries(path):
        raise KeysFault(
            f"keys file {path} has [keys.{name}] already; to replace its key, make one without --file, "
            "and add its hash to the entry: sha256 = [OLD, NEW]"
        )
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    changed = Path(temporary)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(f"{former.rstrip()}\n\n{entry}".lstrip())
        read_keys(changed)
        if former:
            # Its reader may be another user than its writer.
            changed.chmod(path.stat().st_mode & 0o777)
        changed.replace(path)
    except KeysFault as fault:
        raise KeysFault(str(fault).replace(str(changed), str(path))) from None
    finally:
        changed.unlink(missing_ok=True)
