"""Arrays and text that know nothing of runs: statistics, numbers as a reader writes them, cells of tables."""
