"""Messages and services that the rooms agree on: generated, committed, without logic."""
