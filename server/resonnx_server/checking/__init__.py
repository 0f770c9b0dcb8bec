"""Shows and checks settings and a repository without serving; asks a running server for its health."""
