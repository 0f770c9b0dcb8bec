"""The command `resonnx-server tune`: measures models thoroughly for the cache, and prints a table of the candidates."""

import logging
import math
import sys
from collections.abc import Iterator, Sequence
from functools import partial

from resonnx_server.checking.repository import served_versions
from resonnx_server.config import Settings
from resonnx_server.config_text import nearest
from resonnx_server.errors import ModelRefused
from resonnx_server.observe.metrics import Metrics
from resonnx_server.repository.choosing.report import RaceReport
from resonnx_server.repository.choosing.turns import ON_DEMAND, Effort
from resonnx_server.repository.latency_cache import LatencyCache, cache_folder
from resonnx_server.repository.loader import load, picture_options
from resonnx_server.repository.model_config.settings import settings_of
from resonnx_server.repository.progress import Progress
from resonnx_server.repository.scan import ModelFolder, scan
from resonnx_server.repository.version import Version
from resonnx_server.runtime.machine.host import compute_thread, usable_cores
from resonnx_server.runtime.model_files.signatures import BadKey, TrustedKeys
from resonnx_server.scheduling.device import Device

_HEAD = ("for", "candidate", "us a row", "beside the chosen", "")


def tune(settings: Settings, names: Sequence[str], effort: Effort = ON_DEMAND) -> int:
    """Measure the models `names` of the repository, or all, and write the choices and latency tables to the cache.

    Returns:
        Exit status: 0, 1 if a version was refused or its measurements are doubtful, 2 for bad arguments.
    """
    try:
        cache = _cache(settings)
        there = [each.name for each in scan(settings.repository)]
        for name in names:
            if name not in there:
                close = f"; nearest is {near!r}" if (near := nearest(name, there)) else ""
                raise _BadArgument(f"{settings.repository} has no model {name[:64]!r}{close}")
        if not there:
            raise _BadArgument(f"{settings.repository} holds no models")
        trusted = TrustedKeys.read(settings.trusted_keys) if settings.trusted_keys else None
    except ModelRefused as refused:
        print(f"resonnx-server tune: {refused.message}", file=sys.stderr)
        return 2
    except (BadKey, _BadArgument) as fault:
        print(f"resonnx-server tune: {fault}", file=sys.stderr)
        return 2
    # As threads that serve: ONNX Runtime's threads inherit it.
    compute_thread()
    is_sound = [_measured(settings, name, cache, trusted, effort) for name in dict.fromkeys(names or there)]
    print(f"kept in {cache.folder}")
    return 0 if all(is_sound) else 1


class _BadArgument(Exception):
    pass


def _cache(settings: Settings) -> LatencyCache:
    folder = cache_folder(settings.cache_dir)
    if folder is None:
        raise _BadArgument("there is no cache_dir to keep choices in: set it to a folder (--cache-dir)")
    cache = LatencyCache.open(folder, usable_cores())
    if cache.folder is None:
        raise _BadArgument(f"cache_dir {folder} cannot be written to")
    return cache


def _measured(settings: Settings, name: str, cache: LatencyCache, trusted: TrustedKeys | None, effort: Effort) -> bool:
    """Measure the versions of a model that would be served, and print them. Returns whether all are beyond doubt."""
    try:
        own = settings_of(settings.repository / name, name, settings)
        numbers = served_versions(settings.repository / name, own)
    except ModelRefused as refused:
        print(f"{name}: refused: {refused.message}")
        return False
    is_sound = True
    for number in numbers:
        reports: list[RaceReport] = []
        progress = Progress(partial(_tell, f"{name} {number}"), on_race=reports.append)
        folder = ModelFolder(name, number, settings.repository / name / str(number))
        pictures = partial(picture_options, settings, own)
        version = Version(
            folder,
            own,
            Metrics(),
            _no_device,
            cache.threads,
            cache,
            progress,
            pictures,
            trusted,
            effort=effort,
        )
        try:
            # Reasons are in what is printed.
            logging.disable(logging.CRITICAL)
            load(version)
        except ModelRefused as refused:
            print(f"{name} {number}: refused: {refused.message}")
            is_sound = False
            continue
        finally:
            logging.disable(logging.NOTSET)
        print(f"{name} {number}")
        for line in table(reports):
            print(f"  {line}")
        if progress.is_doubtful:
            is_sound = False
            print("  doubtful: other processes held the processors, or the time did not suffice; try in a quiet hour")
    return is_sound


def table(reports: Sequence[RaceReport]) -> Iterator[str]:
    """Yield the lines of a table of all candidates: their median time and its ratio to the chosen one's."""
    if not reports:
        yield "there is one candidate only; its batch times were measured"
        return
    rows = [_HEAD, *(row for report in reports for row in _rows(report))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD) - 1)]
    for row in rows:
        *first, last = row
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(first, widths, strict=True)), last]).rstrip()


def _rows(report: RaceReport) -> Iterator[tuple[str, ...]]:
    raced = report.raced
    for i in sorted(range(len(report.names)), key=lambda i: raced.order.index(i) if i in raced.order else math.inf):
        if not math.isfinite(raced.behind[i]):
            yield f"{report.file}, {report.subject}", report.names[i], "-", "-", "could not run"
            continue
        ratio = raced.behind[i] / math.exp(report.penalties[i] - report.penalties[raced.order[0]])
        note = ""
        if i == raced.order[0]:
            lost = f", others had {raced.received.lost:.0%} of the processors" if raced.received.is_disturbed else ""
            note = f"chosen after {raced.turns} turns{'' if raced.is_settled else ', not settled'}{lost}"
        elif report.penalties[i] != report.penalties[raced.order[0]]:
            note = f"counts {math.exp(report.penalties[i] - report.penalties[raced.order[0]]):.2f} times"
        yield f"{report.file}, {report.subject}", report.names[i], f"{report.us(i):.1f}", f"{ratio:.3f}", note


def _tell(where: str, stage: str) -> None:
    print(f"{where}: {stage}", file=sys.stderr)


def _no_device(provider: str) -> Device:
    raise AssertionError(f"nothing serves here, on {provider} or elsewhere")
