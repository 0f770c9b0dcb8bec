"""A gRPC server for the event loop, on the completion queue that grpc.aio and grpc.server stand on.

grpc.aio makes two tasks and several futures a call and wakes the loop for each operation that ends. Here a call is one
task, and one wake-up serves all events that came meanwhile; the wire stays gRPC's own. operations.py alone imports the
private module `grpc._cython.cygrpc`, of which it uses what grpc.server has used for years.
"""
