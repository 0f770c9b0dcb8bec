"""A gRPC server on grpc.aio, gRPC's public server for asyncio: slower than core/, and free of private modules."""
