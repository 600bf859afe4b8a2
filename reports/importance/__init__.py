"""`python -m reports.importance RUN -o DIR`: the figures of an importance run."""
