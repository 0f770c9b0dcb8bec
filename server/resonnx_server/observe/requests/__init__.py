"""What is told of single requests: their ids, and lines of the access log."""
