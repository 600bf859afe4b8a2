"""A verdict as a table in the terminal, as Markdown and as JUnit XML: each drawn from verdict.json alone."""
