"""The command line `python -m common`."""
