"""Models and comparisons of their versions, as JSON."""
