"""The figures of the regression gate."""
