"""Messages and services that the rooms agree on: generated, committed, without logic."""

# The version of all four distributions, which is why they ask for this one's very version. Their pyproject.toml files
# repeat it; tests/test_versions.py holds them to it.
__version__ = "0.1.0"
