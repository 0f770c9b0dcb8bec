"""The only room that knows gRPC: message to domain and back, nothing else."""
