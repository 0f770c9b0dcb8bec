"""The files of a model version: manifest, checksums, golden examples."""
