"""MP4 and WebM: the header by our own code, everything else by PyAV in a child process."""
