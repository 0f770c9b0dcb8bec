"""Shows and checks settings and a repository without serving."""
