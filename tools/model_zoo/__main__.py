"""Starts the walk over all model types: `nox -s families`."""

from tools.model_zoo.walk import main

if __name__ == "__main__":
    main()
