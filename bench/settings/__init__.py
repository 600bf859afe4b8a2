"""What is asked for on the command line, and the cases that follow from it."""
