"""Spans of requests for distributed traces: recorded without a library, exported with OpenTelemetry."""
