"""Reads checkpoint files without running code from them."""
