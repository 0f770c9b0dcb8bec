"""Videos: which frames of them are read, whole clips, and streams of frames."""
