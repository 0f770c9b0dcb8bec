"""A race between candidates, for the log and for the table of `resonnx-server tune`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from resonnx_server.repository.choosing.turns import Raced


@dataclass(frozen=True)
class RaceReport:
    """What raced for what, and the result.

    Attributes:
        file: The ONNX file, or files.
        subject: "provider", "throughput" or "latency".
        names: The candidates, in the order of preference.
        penalties: What was added to the logarithm of each candidate's time.
        raced: The result.
    """

    file: str
    subject: str
    names: Sequence[str]
    penalties: Sequence[float]
    raced: Raced

    @property
    def chosen(self) -> str:
        """The chosen candidate."""
        return self.names[self.raced.order[0]]

    def us(self, candidate: int) -> float:
        """Return a candidate's median time in µs a row, without its penalty; infinite if it could not run.

        Of several batch sizes, it is the geometric mean.
        """
        return math.exp(self.raced.scores[candidate] - self.penalties[candidate]) / 1e3

    @property
    def told(self) -> dict[str, object]:
        """For the log."""
        return {
            "file": self.file,
            "subject": self.subject,
            "chosen": self.chosen,
            "us_a_row": {name: round(self.us(i), 1) for i, name in enumerate(self.names) if math.isfinite(self.us(i))},
            "turns": self.raced.turns,
            "settled": self.raced.is_settled,
            "lost": round(self.raced.received.lost, 2),
        }
