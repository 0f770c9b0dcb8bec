"""Reads what users have, a checkpoint file or a library's folder, to weights and what is recorded beside them."""
