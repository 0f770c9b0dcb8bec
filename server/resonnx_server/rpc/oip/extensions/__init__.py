"""Triton's extensions of the tensor protocol that are no inference: groups of rpcs that the servicer takes up."""
