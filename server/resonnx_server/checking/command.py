"""The command `resonnx-server check`: a table of what the server would serve, and an exit status."""

import logging
from collections.abc import Iterable, Iterator

from resonnx_server.access.policy import AccessFault, Policy
from resonnx_server.checking.repository import CheckedModel, Row, check_repository
from resonnx_server.config import Settings
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.model_files.signatures import BadKey, TrustedKeys

_HEAD = ("model", "version", "", "task", "")


def check(settings: Settings) -> int:
    """Check keys, certificates and all models, and print a table. Return 1 if anything would be refused, else 0."""
    try:
        # Reasons are in the table.
        logging.disable(logging.CRITICAL)
        Policy(settings)
        trusted = TrustedKeys.read(settings.trusted_keys) if settings.trusted_keys else None
        models = [*check_repository(settings, trusted)]
    except (AccessFault, BadKey) as fault:
        print(f"resonnx-server: {fault}")
        return 1
    except ModelRefused as refused:
        print(f"resonnx-server: {refused.message}")
        return 1
    finally:
        logging.disable(logging.NOTSET)
    for line in report(models, settings.models.keys()):
        print(line)
    return 0 if models and all(row.is_good for model in models for row in model.rows) else 1


def report(models: list[CheckedModel], configured: Iterable[str]) -> Iterator[str]:
    """Yield the lines of the table, what the files beside models give, and a sum.

    Args:
        models: The models.
        configured: Names of models that the server's file has settings for.
    """
    rows = [row for model in models for row in model.rows]
    cells = [_HEAD, *map(_cells, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_HEAD) - 1)]
    for row in cells:
        *first, last = row
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(first, widths, strict=True)), last]).rstrip()
    for model in models:
        if model.taken or model.ignored:
            yield ""
            yield model.name
            yield from (f"  taken    {text}" for text in model.taken)
            yield from (f"  ignored  {text}" for text in model.ignored)
    there = {model.name for model in models}
    missing = sorted({*configured} - there)
    yield ""
    yield from (f"[models.{name}] of the server's file is for a model that is not there" for name in missing)
    refused = sum(not row.is_good for row in rows)
    yield f"{len(rows) - refused} would be served, {refused} refused"


def _cells(row: Row) -> tuple[str, ...]:
    return row.model, row.version or "-", "ok" if row.is_good else "refused", row.task or "-", row.detail
