"""Pictures in, labels and captions out."""
