"""Metrics and logs. Imported by all rooms, imports none of them."""
