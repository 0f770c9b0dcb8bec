"""Generated messages and services of the gRPC API and the model manifest."""

from pathlib import Path

# The one version number of all four distributions.
__version__ = (Path(__file__).parent / "VERSION").read_text().strip()
