"""The measuring instruments: samples taken in turns, memory, counted operations, and the machine itself."""
