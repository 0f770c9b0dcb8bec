"""Queues, batch sizes, reservations and deadlines; the lanes of each device that run the batches."""
