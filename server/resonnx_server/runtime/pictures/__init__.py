"""Picture files: format, size and memory from their headers, and decoding as in the training preprocessing."""
