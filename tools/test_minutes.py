"""How long the tests of each area take, from pytest's JUnit file: `python -m tools.test_minutes FILE`.

    nox -s tests -- --junitxml=runs/tests.xml
    python -m tools.test_minutes runs/tests.xml

An area is a folder of tests, such as tests/mha/pruning, with whatever is below it. Seconds of a test include its
fixtures'; tests run side by side in several processes, so that the sum is more than the time that passed.
"""

import argparse
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

DEEPEST = 3  # folders: tests/mha/pruning


def main() -> None:
    """Print a Markdown table of areas or files with their tests and seconds, the one with most seconds first."""
    parser = argparse.ArgumentParser(prog="python -m tools.test_minutes", description=__doc__.partition(":")[0])
    parser.add_argument("file", type=Path, help="what --junitxml has written")
    parser.add_argument("--files", type=int, metavar="N", help="instead of areas the N dearest files")
    options = parser.parse_args()
    cases = seconds_of_tests(options.file)
    table = by_file(cases, options.files) if options.files else by_area(cases)
    sys.stdout.write("\n".join(["| tests | number | seconds |", "|---|---|---|", *table, ""]))


def seconds_of_tests(file: Path) -> dict[tuple[str, str], float]:
    """Module and name of each test -> its seconds, with those of the fixtures that were made for it."""
    cases = ElementTree.parse(file).getroot().iter("testcase")
    return {(case.get("classname", ""), case.get("name", "")): float(case.get("time", 0)) for case in cases}


def by_area(cases: Mapping[tuple[str, str], float]) -> list[str]:
    """The Markdown rows of all areas, that with most seconds first."""
    return _rows(cases, _area)


def by_file(cases: Mapping[tuple[str, str], float], most: int) -> list[str]:
    """The Markdown rows of at most `most` files, that with most seconds first."""
    return _rows(cases, lambda module: f"{module.replace('.', '/')}.py")[:most]


def _area(module: str) -> str:
    folders = [name for name in module.split(".") if not name.startswith("test_")]
    return "/".join(folders[:DEEPEST])


def _rows(cases: Mapping[tuple[str, str], float], place_of: Callable[[str], str]) -> list[str]:
    seconds: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    for (module, _), time in cases.items():
        seconds[place_of(module)] += time
        numbers[place_of(module)] += 1
    return [f"| {place} | {numbers[place]} | {total:.0f} |" for place, total in seconds.most_common()]


if __name__ == "__main__":
    main()
