"""Two gRPC servers for the same services: core/ on gRPC's completion queue, and aio/ on the public grpc.aio."""
