def write_tables(d, r): pass
