"""The report of a rollback: one HTML page with the pictures on which the versions differ, without scripts or links."""

import base64
import html
import io
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from resonnx_server.comparison.comparison import Comparison
from resonnx_server.comparison.copies import Answer
from resonnx_server.comparison.kept import Disagreement

_log = logging.getLogger(__name__)

# Classes that are shown of an answer.
_SHOWN: Final = 3
_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:60em;padding:0 1em}"
    "table{border-collapse:collapse;width:100%}th,td{border:1px solid #ccc;padding:.4em .6em;text-align:left;"
    "vertical-align:top}img{max-width:224px;image-rendering:auto}"
)


class Reports:
    """Writes reports.

    Args:
        folder: Where they go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, comparison: Comparison) -> None:
        """Write the report of a comparison, and note its path there. Takes some milliseconds a picture."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        path = self._folder / f"{comparison.name}-{comparison.new_version}-{stamp}.html"
        try:
            # Only the server's user may read callers' pictures.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with open(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
                file.writelines(page(comparison))
        except OSError as error:
            _log.error("a report was not written", extra={"path": str(path), "error": error.strerror})
            return
        comparison.report = str(path)
        _log.info("a report was written", extra={"model": comparison.name, "path": str(path)})


def page(comparison: Comparison) -> Iterator[str]:
    """Yield the parts of the page."""
    title = f"{comparison.name}: version {comparison.new_version} was rolled back"
    evidence = comparison.evidence
    facts = {
        "Serving version": comparison.base_version,
        "New version": comparison.new_version,
        "Mode": f"{comparison.plan.mode.value}, {comparison.plan.share:.3g} of all",
        "Rule": comparison.plan.rule or "none",
        "Reason": comparison.reason,
        "Compared answers": f"{evidence.n}, of which {evidence.n - evidence.agreeing} differ",
        "Failed on": evidence.errors,
    }
    yield '<!doctype html><html lang="en"><meta charset="utf-8">'
    yield '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
    yield f"style-src 'unsafe-inline'\"><title>{_text(title)}</title><style>{_STYLE}</style>"
    yield f"<h1>{_text(title)}</h1><table>"
    for name, value in facts.items():
        yield f"<tr><th>{_text(name)}<td>{_text(value)}"
    yield "</table><h2>Pictures with different answers</h2><table><tr><th>Picture<th>Serving version<th>New version"
    for each in comparison.kept.found:
        yield _row(each, comparison.names)
    yield "</table></html>\n"


def _row(found: Disagreement, names: Sequence[str]) -> str:
    picture = io.BytesIO()
    Image.fromarray(found.pixels).save(picture, "PNG")
    data = base64.b64encode(picture.getvalue()).decode()
    answers = "".join(f"<td>{_answer(answer, names)}" for answer in (found.base, found.new))
    return f'<tr><td><img alt="" src="data:image/png;base64,{data}">{answers}'


def _answer(answer: Answer, names: Sequence[str]) -> str:
    if isinstance(answer, tuple):
        return _text(" ".join(names[word] for word in answer) or "(no words)")
    best = np.argsort(-answer, kind="stable")[:_SHOWN].tolist()
    return "<br>".join(f"{_text(names[index])} {float(answer[index]):.4f}" for index in best)


def _text(value: object) -> str:
    return html.escape(str(value))
