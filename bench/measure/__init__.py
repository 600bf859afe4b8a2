"""The instruments: samples in turns, memory, counted operations, the machine; and how results are kept in files."""
