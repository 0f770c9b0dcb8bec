"""HTTP on its own port: metrics and probes."""
