"""Commands of the command line that have a module each; cli.py has the others."""
