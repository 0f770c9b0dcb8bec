"""The Open Inference Protocol (KServe v2, Triton): messages to tensors, and models in its terms."""
