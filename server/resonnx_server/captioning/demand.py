"""What captions ask of the decoder, in rows and steps. Pure.

A caption holds as many rows as it has beams, for as many steps as it is expected to have tokens.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Demand:
    """Of some captions.

    Attributes:
        captions: How many.
        rows: Rows of a step that they take, if all are decoded at once.
        row_steps: For each, its rows times the steps that it has yet to take; their sum.
    """

    captions: int = 0
    rows: int = 0
    row_steps: int = 0

    def __add__(self, other: "Demand") -> "Demand":
        return Demand(self.captions + other.captions, self.rows + other.rows, self.row_steps + other.row_steps)

    def __neg__(self) -> "Demand":
        return self * -1

    def __mul__(self, captions: int) -> "Demand":
        return Demand(captions * self.captions, captions * self.rows, captions * self.row_steps)

    @property
    def steps(self) -> float:
        """Steps of a caption, on average over rows."""
        return self.row_steps / self.rows if self.rows else 0.0


NOTHING = Demand()
