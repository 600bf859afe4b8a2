"""The options of `pytest bench`. What they mean is in bench/settings/options.py, what follows in bench/conftest.py."""

from bench.settings.options import add_options as pytest_addoption

__all__ = ["pytest_addoption"]
