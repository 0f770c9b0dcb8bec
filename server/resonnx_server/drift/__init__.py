"""Whether pictures and captions of requests still look like those that a model was tried on (docs/drift.md)."""
