"""What batches cost in tests of the batcher: tables of latencies."""

from resonnx_server.scheduling.measurement import sizes_up_to

SIZES = sizes_up_to(16)
FLAT = {size: 1e6 + 1e4 * size for size in SIZES}
# 1 ms and 50 or 75 µs more a row: rows are worth batching, and a batch costs time that shows.
DEAR = {1: 1.05e6, 2: 1.15e6, 3: 1.22e6, 4: 1.3e6, 6: 1.5e6, 8: 1.6e6, 12: 1.9e6, 16: 2.3e6}
LINEAR = {size: 1e6 * size for size in SIZES}
SLOW = {size: 2e7 * size for size in SIZES}
