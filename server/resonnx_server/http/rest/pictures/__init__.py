"""Pictures and clips in, labels and captions out."""
