"""Class names and vocabularies."""
