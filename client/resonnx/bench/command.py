"""`resonnx bench`: checks the options, runs the measurement, prints and writes the results."""

import asyncio
import math
from collections.abc import AsyncGenerator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

from resonnx._commands.connection import Connection, connecting
from resonnx._commands.inputs import Inputs
from resonnx._commands.options import PICTURES_HELP, Model, inputs
from resonnx._commands.output import error_line
from resonnx._errors import Internal, ResonnxError
from resonnx._transport.access import Access
from resonnx.bench import planning
from resonnx.bench.load import Plan
from resonnx.bench.progress import Progress
from resonnx.bench.report import (
    PlotUnavailable,
    Sweep,
    check_plot,
    check_writable,
    error_lines,
    table,
    write_json,
    write_plot,
)
from resonnx.bench.session import Session, Target
from resonnx.bench.summary import Result
from resonnx.bench.traffic import Input

_MOST_CALLERS: Final = 4096
_MOST_CONNECTIONS: Final = 2048
_DEFAULT_CONCURRENCY: Final = "1,4,16,64"
# A shell's exit status of a command that Ctrl-C ended.
_INTERRUPTED: Final = 130


def _positive(value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter("must be a number over 0")
    return value


def _output(file: Path | None) -> Path | None:
    try:
        if file:
            check_writable(file)
    except OSError as error:
        raise typer.BadParameter(f"{error.filename}: {error.strerror}") from None
    return file


@connecting
def bench(
    model: Model,
    pictures: Annotated[list[str] | None, typer.Argument(metavar="IMAGE", help=PICTURES_HELP)] = None,
    *,
    connection: Connection,
    input: Annotated[
        Input | None,
        typer.Option(
            help="Default: file if pictures are given, else pixels. tensor works with any server of the protocol."
        ),
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Pipeline requests over streams, one per connection.")
    ] = False,
    concurrency: Annotated[
        str, typer.Option(metavar="N,...", help="Closed loop: concurrent callers, each waiting for its answer.")
    ] = _DEFAULT_CONCURRENCY,
    rate: Annotated[
        str | None, typer.Option(metavar="R,...", help="Open loop: Poisson arrivals at this rate per second.")
    ] = None,
    search_p99_ms: Annotated[
        float | None,
        typer.Option(
            callback=_positive, metavar="MS", help="Search for the highest rate whose p99 latency is within this bound."
        ),
    ] = None,
    plan_rate: Annotated[
        float | None,
        typer.Option(
            "--plan",
            callback=_positive,
            metavar="RATE",
            help="Send no load: compute how many such servers answer RATE requests/s within --p99.",
        ),
    ] = None,
    p99_ms: Annotated[
        float | None,
        typer.Option(
            "--p99", callback=_positive, metavar="MS", help="Objective of --plan: 99 of 100 within this time."
        ),
    ] = None,
    duration: Annotated[float, typer.Option(min=0.1, max=3600, metavar="SECONDS", help="Duration of each run.")] = 10.0,
    warmup: Annotated[
        float, typer.Option(min=0, max=600, metavar="SECONDS", help="Warm-up before each run, not counted.")
    ] = 2.0,
    deadline_ms: Annotated[
        float | None,
        typer.Option(
            callback=_positive, metavar="MS", help="Deadline of each request; answers after it count as late."
        ),
    ] = None,
    connections: Annotated[
        int | None,
        typer.Option(min=1, max=_MOST_CONNECTIONS, metavar="N", help="Default: one per 16 callers; 4 in an open loop."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of random pixels and arrivals.")] = 0,
    json: Annotated[
        Path | None, typer.Option(callback=_output, metavar="FILE", help="Write the results as JSON.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(callback=_output, metavar="FILE.png", help="Plot latency against throughput.")
    ] = None,
) -> None:
    """Measure throughput and latency of a served model under load, or plan for a load."""
    if (plan_rate is None) != (p99_ms is None):
        raise typer.BadParameter("give --plan and --p99 together")
    if plan_rate and p99_ms:
        _plan(connection, model, plan_rate, p99_ms / 1e3, json)
        return
    callers = tuple(int(value) for value in _numbers(concurrency, "concurrency", whole=True, most=_MOST_CALLERS))
    rates = tuple(_numbers(rate, "rate", whole=False, most=1e6)) if rate else ()
    if rates and search_p99_ms:
        raise typer.BadParameter("give --rate or --search-p99-ms, not both")
    kind = input or (Input.FILE if pictures else Input.PIXELS)
    if (kind is Input.FILE) != bool(pictures):
        raise typer.BadParameter("--input file needs picture files, and picture files are sent only with --input file")
    target = Target(connection.server, model, kind, _read(inputs(pictures or [])), stream, connections)
    plan = Plan(warmup, duration, deadline_ms and deadline_ms / 1e3, seed)
    try:
        if plot:
            check_plot(plot)
    except PlotUnavailable as error:
        _fail(str(error))
    except ValueError as error:
        raise typer.BadParameter(f"--plot {plot}: {error}") from None
    sweep, ended_by = _measure(target, connection.access, plan, callers, rates, search_p99_ms)
    if sweep.results:
        _print(sweep, search_p99_ms)
    if sweep.cut_short:
        typer.echo(f"resonnx: {sweep.cut_short}", err=True)
        if finished := len(sweep.results):
            typer.echo(f"resonnx: cut short after {finished} finished run{'s' if finished > 1 else ''}", err=True)
    if sweep.results:
        loads = {"concurrency": None if rates else callers, "rate": rates or None, "search_p99_ms": search_p99_ms}
        settings = {**_settings(target, plan), **loads}
        try:
            if json:
                write_json(json, settings, sweep)
            if plot:
                write_plot(plot, f"{model}, {kind}{', stream' if stream else ''}", sweep.results)
        except (OSError, ValueError) as error:
            _fail(str(error))
    match ended_by:
        case KeyboardInterrupt():
            raise typer.Exit(_INTERRUPTED)
        case ResonnxError() | TimeoutError():
            raise typer.Exit(1)
        case BaseException():
            raise ended_by
    # A search overloads the server on purpose: only errors of the closed loop before it count.
    counted = sweep.results[:1] if search_p99_ms else sweep.results
    if any(result.errors for result in counted) or (search_p99_ms and sweep.best_rate is None):
        raise typer.Exit(1)


def _plan(connection: Connection, model: str, rate: float, p99_s: float, file: Path | None) -> None:
    try:
        capacity = planning.plan(connection.server, model, connection.access, rate, p99_s)
        for line in planning.lines(capacity):
            typer.echo(line)
        if file:
            planning.write(file, capacity)
    except ResonnxError as error:
        _fail(error_line(error, connection.server))
    except OSError as error:
        _fail(str(error))


def _measure(
    target: Target, access: Access, plan: Plan, callers: tuple[int, ...], rates: tuple[float, ...], p99_ms: float | None
) -> tuple[Sweep, BaseException | None]:
    """Return the measurement, and the exception that ended it early, if any."""
    sweep = Sweep()

    async def measure() -> None:
        with Progress() as progress:
            session = Session(target, plan, progress.watch, access)
            runs: AsyncGenerator[Result]
            if p99_ms:
                runs = session.search(p99_ms, max(callers))
            else:
                runs = session.open(rates) if rates else session.closed(callers)
            async for result in runs:
                sweep.results.append(result)
                sweep.subject, sweep.best_rate = session.subject, session.best_rate

    try:
        asyncio.run(measure())
    except (KeyboardInterrupt, Exception) as error:
        # Results of finished runs are printed first, whatever the error.
        first = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
        sweep.cut_short = _cause(first, target.server)
        return sweep, first
    return sweep, None


def _cause(error: BaseException, server: str) -> str:
    match error:
        case KeyboardInterrupt():
            return "interrupted"
        case ResonnxError():
            return error_line(error, server)
        case TimeoutError():
            return error_line(Internal("answers are still missing long after the end of the run"), server)
    return f"{type(error).__name__}: {error}"


def _print(sweep: Sweep, p99_ms: float | None) -> None:
    from rich.console import Console

    Console().print(table(sweep.results))
    for line in error_lines(sweep.results):
        typer.echo(line)
    if p99_ms:
        found = "no rate that was tried" if sweep.best_rate is None else f"{sweep.best_rate:.1f} requests/s"
        typer.echo(f"highest rate with p99 within {p99_ms:g} ms{', so far' if sweep.cut_short else ''}: {found}")


def _settings(target: Target, plan: Plan) -> dict[str, Any]:
    settings = asdict(target)
    settings["files"] = len(target.files)
    return {**settings, **asdict(plan)}


def _numbers(text: str, option: str, *, whole: bool, most: float) -> list[float]:
    try:
        numbers: list[float] = [int(part) if whole else float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number <= most for number in numbers):
        kind = "whole numbers" if whole else "numbers"
        raise typer.BadParameter(f"--{option} takes {kind} over 0 and up to {most:g}, separated by commas")
    return numbers


def _read(pictures: Inputs) -> tuple[bytes, ...]:
    try:
        return tuple(map(pictures.read, pictures.names))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}")


def _fail(line: str) -> NoReturn:
    typer.echo(f"resonnx: {line}", err=True)
    raise typer.Exit(1)
