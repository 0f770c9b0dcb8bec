"""Picture files: formats, sizes and memory from headers, and their pixels as the training recipe makes them."""
