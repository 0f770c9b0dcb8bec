"""A model version's folder: manifest, checksums, written whole or not at all."""
