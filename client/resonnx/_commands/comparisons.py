"""`resonnx repo canary`, `promote`, `rollback` and `status`: a new version proves itself on live traffic."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated, Any, Final, NoReturn

import typer

from resonnx._clients.client import Client
from resonnx._commands.connection import Connection, connecting
from resonnx._commands.options import Json, Timeout, text
from resonnx._commands.outcomes import fail
from resonnx._commands.output import error_json, error_line
from resonnx._comparisons import Comparison
from resonnx._errors import ResonnxError
from resonnx._table import table

_Name = Annotated[str, typer.Argument(metavar="NAME", callback=text, help="Name of the model.")]
_HEAD: Final = (
    "NAME",
    "VERSION",
    "MODE",
    "STATE",
    "ANSWERS",
    "EQUAL",
    "MAX |ΔP|",
    "EDITS",
    "COMPUTE",
    "P99 MS",
    "REASON",
)


def _share(value: str | None) -> str | None:
    if value is not None:
        _as_share(value)
    return value


def _as_share(value: str) -> float:
    """Return 0.05 for "5%" and "0.05"."""
    try:
        share = float(value[:-1]) / 100 if value.endswith("%") else float(value)
    except ValueError:
        raise typer.BadParameter("must be a share such as 5% or 0.05") from None
    if not 0 < share <= 1:
        raise typer.BadParameter("must be above 0 and at most 100%")
    return share


@connecting
def canary(
    name: _Name,
    version: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Version to be proven.")],
    *,
    connection: Connection,
    share: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE", callback=_share, help="Of callers (default 5%), or of requests with --shadow (10%)."
        ),
    ] = None,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Answer nobody: run copies of requests when the device is idle.")
    ] = False,
    promote_if: Annotated[
        str,
        typer.Option(
            metavar="RULE",
            help="Promote or roll back by itself, e.g. 'agreement>=0.99 and compute<=1.1x and n>=2000'.",
        ),
    ] = "",
    keep: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Disagreeing pictures to keep for the report; default: the server's."),
    ] = None,
    timeout: Timeout = 600.0,
    as_json: Json = False,
) -> None:
    """Load a version beside the one that serves, and compare them on live traffic."""
    with connection.client(timeout) as client:
        try:
            found = client.start_comparison(
                name,
                version,
                mode="shadow" if shadow else "canary",
                share=None if share is None else _as_share(share),
                promote_if=promote_if,
                keep=keep,
                timeout_s=timeout,
            )
        except ResonnxError as error:
            _fail(client, error, as_json)
    _print([found], as_json)


@connecting
def promote(name: _Name, *, connection: Connection, timeout: Timeout = 600.0, as_json: Json = False) -> None:
    """Let the version that is being compared answer calls that name no version."""
    with connection.client(timeout) as client:
        try:
            found = client.promote(name, timeout_s=timeout)
        except ResonnxError as error:
            _fail(client, error, as_json)
    _print([found], as_json)


@connecting
def rollback(name: _Name, *, connection: Connection, timeout: Timeout = 600.0, as_json: Json = False) -> None:
    """Unload the version that is being compared; the other serves on."""
    with connection.client(timeout) as client:
        try:
            found = client.roll_back(name, timeout_s=timeout)
        except ResonnxError as error:
            _fail(client, error, as_json)
    _print([found], as_json)


@connecting
def status(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", callback=text, help="Only this model.")] = None,
    *,
    connection: Connection,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Print the comparisons under way, and the last one of each other model."""
    with connection.client(timeout) as client:
        try:
            found = client.comparisons(name, timeout_s=timeout)
        except ResonnxError as error:
            _fail(client, error, as_json)
    _print(found, as_json)


def _print(found: Iterable[Comparison], as_json: bool) -> None:
    if as_json:
        for each in found:
            values: dict[str, Any] = asdict(each) | {"agreement": each.agreement}
            typer.echo(json.dumps(values))
        return
    for line in table([_HEAD, *map(_row, found)]):
        typer.echo(line)


def _row(it: Comparison) -> tuple[str, ...]:
    mode = f"{it.mode} {it.share:.3g}"
    equal = f"{it.agreement:.2%}" if it.answers else "-"
    p99 = f"{it.p99_ms:.3g} ({it.serving_p99_ms:.3g})" if it.p99_ms else "-"
    numbers = (
        f"{it.max_probability_difference:.4g}" if it.max_probability_difference else "-",
        f"{it.mean_edit_distance:.3g}" if it.mean_edit_distance else "-",
        f"{it.compute_ratio:.3g}x" if it.compute_ratio else "-",
    )
    reason = it.reason + (f" (report on the server: {it.report})" if it.report else "")
    state = it.state.replace("_", " ")
    return (
        it.model,
        f"{it.version} ({it.serving_version})",
        mode,
        state,
        str(it.answers),
        equal,
        *numbers,
        p99,
        reason,
    )


def _fail(client: Client, error: ResonnxError, as_json: bool) -> NoReturn:
    if as_json:
        typer.echo(json.dumps({"error": error_json(error)}))
        raise typer.Exit(1)
    fail(error_line(error, client.server))
