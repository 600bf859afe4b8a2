"""The options of `pytest bench`: bench/settings/options.py defines them, and bench/conftest.py acts on them."""

from bench.settings.options import add_options as pytest_addoption

__all__ = ["pytest_addoption"]
