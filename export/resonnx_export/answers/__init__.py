"""Answers of the user's own model: recorded, read, compared with an export, and explained where they differ."""
