"""Proves a new version on live traffic: compares its answers with those of the version that serves, and decides."""
