"""Properties that a checkpoint does not record: the values taken, and their alternatives."""
