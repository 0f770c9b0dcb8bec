"""A gRPC server for the event loop, on the core that grpc.aio and grpc.server stand on.

grpc.aio makes two tasks and several futures a call, and wakes the loop by a socket for each operation that ends. Here a
call is one task and one wake-up, shared with whatever else came meanwhile; the wire, and all that is hard about it,
stays gRPC's own. What is used of `grpc._cython.cygrpc`, which is no public interface, is what grpc.server has built on
for years; `operations.py` alone imports it.
"""
