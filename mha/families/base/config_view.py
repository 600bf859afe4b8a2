"""A model's configuration as one pruned layer sees it."""

from typing import Any


class ConfigView:
    """A configuration with some fields of its own; all others are read from, and written to, the live configuration.

    A model's layers share one configuration object, and code that asks it for the number of heads would get that of
    the unpruned model.

    Args:
        config: the live configuration.
        fields: name -> value of the fields that the view has of its own.
    """

    def __init__(self, config: Any, fields: dict[str, int]) -> None:
        object.__setattr__(self, "_config", config)
        object.__setattr__(self, "_fields", fields)

    @property
    def whole(self) -> Any:
        """The live configuration, without the fields of this view."""
        return self._config

    def of(self, config: Any) -> "ConfigView":
        """A view of another configuration that has the same fields of its own."""
        return ConfigView(config, self._fields)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_config", "_fields"):
            raise AttributeError(name)
        return self._fields[name] if name in self._fields else getattr(self._config, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._fields:
            self._fields[name] = value
        else:
            setattr(self._config, name, value)

    def __repr__(self) -> str:
        return f"ConfigView({self._fields} of {type(self._config).__name__})"


def own_config(config: Any, fields: dict[str, int]) -> ConfigView:
    """A view of the configuration with these fields (name -> value) of its own; a view's own are kept beside these."""
    if isinstance(config, ConfigView):
        return ConfigView(config._config, {**config._fields, **fields})
    return ConfigView(config, fields)
