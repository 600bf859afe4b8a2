"""The one error a report raises on purpose."""


class ReportError(Exception):
    """A run that cannot be read, or a report that cannot be written.

    A message finishes the thought: which file, what was expected, what came, what to do.
    """
