"""The connections of a port as the system sees them: gRPC does not tell of them."""
