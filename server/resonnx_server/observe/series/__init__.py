"""The series of metrics: their values, their names, and what to do when they look wrong."""
