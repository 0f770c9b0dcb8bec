"""Metrics that are read from models, devices and the memory budget at each scrape."""
