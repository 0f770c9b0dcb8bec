"""The HTML report of an export: one file without scripts or external resources, with all names escaped."""
