"""Parts of `mutants.py`: changes of the source, the tests that run a line, and test runs in forked processes."""
