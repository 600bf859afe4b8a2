"""The one error a report raises on purpose."""


class ReportError(Exception):
    """A run that cannot be read, or a report that cannot be written.

    Its message says which file, what was expected, what came, and what to do.
    """
