"""Clips of frames: the manifest's part of a video classifier, its graphs, and which frames of a video it reads."""
