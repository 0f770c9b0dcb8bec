"""Reads the names of a classifier's classes from the forms of file that people have."""
