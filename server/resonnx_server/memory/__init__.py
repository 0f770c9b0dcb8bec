"""The memory of requests: one budget for all of it, and what the process really takes."""
