"""Channels, deadlines and retries."""
