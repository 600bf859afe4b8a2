"""A model's configuration as one pruned layer sees it."""

from typing import Any


class ConfigView:
    """Some fields of its own; everything else is read from, and written to, the live configuration.

    A model's layers share one configuration object, and code that asks it for the number of heads would get that of
    the unpruned model.
    """

    def __init__(self, config: Any, fields: dict[str, int]) -> None:
        object.__setattr__(self, "_config", config)
        object.__setattr__(self, "_fields", fields)

    @property
    def whole(self) -> Any:
        """The live configuration."""
        return self._config

    def of(self, config: Any) -> "ConfigView":
        """The same view of another configuration."""
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
    """A view of the configuration with these fields replaced; of a view, another one of what it views."""
    if isinstance(config, ConfigView):
        return ConfigView(config._config, {**config._fields, **fields})
    return ConfigView(config, fields)
