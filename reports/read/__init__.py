"""Reads files that may be damaged into plain values, and lists what was left out."""
