"""Reads run directories, draws, writes pages. Knows `mha` and `bench` only through the files they leave."""
