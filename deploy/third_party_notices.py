"""Prints the name, version, licence and licence texts of every Python package that this interpreter can import.

The Dockerfiles run it at build time and keep the output as /app/THIRD-PARTY-NOTICES. A package without a licence in its
metadata ends it with an error.
"""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

_TEXT = re.compile(r"^(licen[cs]e|copying|notice|third.?party.?notices?)", re.IGNORECASE)
_RULE = "=" * 80


def licence(distribution: Distribution) -> str:
    """Return the licence as the metadata states it: the SPDX expression, the licence field or the classifiers."""
    values = {name: distribution.metadata.get_all(name, []) for name in ("License-Expression", "Classifier", "License")}
    classified = [line.rpartition(" :: ")[2] for line in values["Classifier"] if "License ::" in line]
    # Old metadata may hold the whole text in the licence field.
    named = [text.strip().partition("\n")[0] for text in values["License"]]
    return ", ".join(values["License-Expression"] or classified or named)


def texts(distribution: Distribution) -> Iterator[tuple[str, str]]:
    """Yield the path and text of each licence file of the distribution."""
    for path in sorted(distribution.files or [], key=str):
        if _TEXT.match(path.name) and path.suffix.lower() not in {".py", ".pyc", ".pyi", ".html"}:
            yield str(path), Path(str(path.locate())).read_text(encoding="utf-8", errors="replace")


def main() -> int:
    """Print the notices and return the exit status."""
    unknown = []
    for distribution in sorted(distributions(), key=lambda each: each.name.lower()):
        stated = licence(distribution)
        if not stated:
            unknown.append(distribution.name)
        print(f"{_RULE}\n{distribution.name} {distribution.version}: {stated}\n")
        for path, text in texts(distribution):
            print(f"--- {path}\n{text.rstrip()}\n")
    if unknown:
        print(f"third-party-notices: no licence in the metadata of {', '.join(unknown)}", file=sys.stderr)
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
