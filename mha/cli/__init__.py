"""The command line, `mha` or `python -m mha`: a file a command, and what they share."""
