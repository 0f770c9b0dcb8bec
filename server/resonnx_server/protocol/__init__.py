"""Requests and answers of both interfaces, without a transport: what the gRPC and the HTTP side share."""
