"""The machine: processors by affinity and quota, the time they were busy elsewhere, GPUs."""
