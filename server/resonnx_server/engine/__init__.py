"""Queues, batches, decode loops, devices. Knows no gRPC and no files."""
