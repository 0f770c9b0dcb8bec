"""Model versions and caches written by earlier commits, which every later server loads and answers equally."""
