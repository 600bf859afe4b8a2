def write_summary(d): pass
def write_docs(d, s): pass
