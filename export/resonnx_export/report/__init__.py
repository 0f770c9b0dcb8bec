"""The page beside an export that a person can read: what was proved, how far answers lie apart, and how fast it is.

One file without scripts or anything from outside. Whatever names it quotes are escaped by the template engine.
"""

from resonnx_export.report.page import Findings, render_report

__all__ = ["Findings", "render_report"]
