"""Draws a plot from a benchmark's JSON file.

    python benchmarks/plots.py FILE.json OUT.png

FILE.json is of overhead.py, peers/tensors.py or sweep.py (`--json`); OUT.png is what their `--plot` draws.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import overhead
import sweep
from peers import tensors
from peers.tensor_servers import Tuning
from reports import chart


def draw(content: Any, file: Path) -> None:
    """Draw what one of the three wrote. Raises KeyError or TypeError for anything else."""
    if isinstance(content, list):
        tensors.plot(file, [tensors.Comparison(**{**one, "tuning": Tuning(**one["tuning"])}) for one in content])
    elif isinstance(content["rows"], dict):
        overhead.plot(file, content["rows"])
    else:
        sweep.plot(file, content["rows"])


def main() -> None:
    """Read and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE.json")
    parser.add_argument("out", type=chart.png, metavar="OUT.png")
    given = parser.parse_args()
    try:
        draw(json.loads(given.file.read_text()), given.out)
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    except (KeyError, TypeError, ValueError):
        parser.error(f"{given.file} is not what overhead.py, peers/tensors.py or sweep.py write")


if __name__ == "__main__":
    main()
