"""From files that may be damaged to plain values, and a list of what was left out."""
