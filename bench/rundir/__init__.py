"""The run directory: written case by case, gone on in, and summed up in the terminal."""
