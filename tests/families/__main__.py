"""`nox -s families`."""

from tests.families.walk import main

if __name__ == "__main__":
    main()
