"""Chooses between candidates by a sequential test of their times."""
