"""The machine: processors by affinity and quota, processor time, GPUs."""
