"""From folders to models that serve: scan, verify, choose provider and precision, warm."""
