"""int8 and fp16 variants of the graphs, and the guards of their accuracy."""
