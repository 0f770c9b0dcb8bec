"""The help text of a metric, with what to do when its values look wrong."""

from typing import Self


class Meaning(str):
    """The help text of a metric.

    Attributes:
        advice: What to do when its values look wrong: written to docs/metrics.md, not to /metrics.
    """

    advice: str

    def __new__(cls, text: str, advice: str) -> Self:
        """Return the text with its advice."""
        meaning = super().__new__(cls, text)
        meaning.advice = advice
        return meaning
