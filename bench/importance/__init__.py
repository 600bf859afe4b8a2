"""The importance experiments: every criterion judged against what is known to be true, and at what price.

python -m bench.importance --help
"""
