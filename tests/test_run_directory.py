"""One description of a run directory: the page about it names the same fields, and an axis is added in one place."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DESCRIPTION = Path("bench", "rundir", "run-directory.toml")
AXIS = """
window.type = "text"
window.optional = true
window.usual = "full"
window.words = "{} window"

"""
SCRIPT = """
import json, sys
from pathlib import Path
from bench.rundir.directory import RunDirectory
from bench.rundir.terminal_summary import summary
from reports.analyse import frames
from reports.analyse.compare.labels import labels
from reports.read.load import load

path = Path(sys.argv[1])
task = {"metric": "accuracy", "higher_is_better": True, "chance": 0.1, "batch_size": 2}
run = RunDirectory.create(path, {"cpu": "a CPU"}, {"digits": task})
samples = [{"arm": arm, "round": turn, "seconds": 0.5} for turn in range(7) for arm in ("dense", "pruned")]
for name, window in (("whole", {}), ("near", {"window": "sliding"})):
    known = {"case": name, "kind": "pruning", "task": "digits", "criterion": "taylor", "plan": "p"}
    shape = {"kept_fraction": 0.5, "heads_kept": 1, "heads_total": 2, "shape": [1], "batch": 2, "seq_len": 7}
    with run.case(**known, **shape, device="cpu", dtype="float32", timed_by=name, samples=samples, **window):
        pass
run.assemble()
run.finish(path / "none.json", interrupted=False)
there = load(path)
found = frames.samples([there])
print(json.dumps({
    "written": {file.stem: json.loads(file.read_text())["window"] for file in (path / "cases").iterdir()},
    "samples": found.groupby("case")["window"].first().to_dict(),
    "titles": [(setting.text, setting.slug) for setting, _ in frames.settings(there.cases)],
    "rows": sorted(labels(there.cases)),
    "summary": sum("sliding" in line for line in summary(path)),
}))
"""


def section(page: str, title: str) -> str:
    """What stands below a title, up to the next of its kind."""
    return page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def example(text: str) -> str:
    """The first indented block."""
    return "\n".join(re.search(r"(?:^ {4}.*\n)+", text, flags=re.MULTILINE)[0].splitlines())


def keys(document: str) -> dict[str, set[str]]:
    """Of an example of JSON, which need not be one to the letter: the keys of each object, by the path to it."""
    found, path, last = defaultdict(set), [], ""
    for token in re.findall(r'"[^"]*"|[{}:]', document):
        if token == "{":
            path.append(last)
        elif token == "}":
            last = path.pop()
        elif token == ":":
            found["/".join(path[1:])].add(last)
        else:
            last = token.strip('"')
    return found


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "run-directory.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def description() -> dict:
    return tomllib.loads((ROOT / DESCRIPTION).read_text(encoding="utf-8"))


def test_the_page_has_the_columns_of_every_table(page, description):
    named = dict(re.findall(r"^\| `(\w+\.csv)` \| `([^`]+)`", page, flags=re.MULTILINE))
    named["plans.csv"] = re.search(r"`([^`]+)`", section(page, "`plans.csv` and `plans/PLAN.json`"))[1]
    columns = {table: re.split(r",\s+", names) for table, names in named.items()}
    assert columns == {table: list(about["columns"]) for table, about in description["tables"].items()}


def test_the_page_has_the_fields_of_the_environment(page, description):
    found = keys(example(section(page, "`environment.json`")))
    parts = {"": "environment", "machine": "machine", "machine/checks": "check", "tasks/digits": "task"}
    for path, part in parts.items():
        assert found[path] == {*description[part]}


def test_the_page_has_the_fields_of_a_case(page, description):
    about = section(page, "`cases/CASE.json`")
    found = keys(example(about))
    required = {name for name, field in description["case"].items() if not field.get("optional")}
    assert found[""] == {*description["record"], *required}
    assert found["samples"] == {*description["sample"]}
    for name in ("kind", "status"):
        words = description["statuses"] if name == "status" else description["case"][name]["values"]
        *first, last = (f'"{word}"' for word in words)
        assert f'"{name}": {", ".join(first)} or {last}' in about


def test_the_page_has_what_holds_where_a_field_of_a_case_is_missing(page, description):
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (.+?) \| (.+) \|$", section(page, "`cases/CASE.json`"), re.MULTILINE)
    defaults = {name: (default, text) for names, default, text in rows for name in re.findall(r"\w+", names)}
    optional = {name: field for name, field in description["case"].items() if field.get("optional")}
    assert defaults.keys() == optional.keys()
    for name, field in optional.items():
        default, text = defaults[name]
        if name != "tokens":  # are made of two others
            assert json.loads(default.strip("`")) == field.get("usual", field.get("default"))
        assert {*field.get("values", ())} == {*re.findall(r'`"(\w+)"`', default + text)} - {
            "steady",
            "generation",
            "own",
        }
    assert re.findall(r"`(\w+)`", defaults["counts"][1]) == list(description["counts"])


def test_the_page_has_the_fields_of_plans_and_steps(page, description):
    (step,) = re.findall(r"^\| `steps/STEP.json` \| (.+?):", page, flags=re.MULTILINE)
    assert {*re.findall(r"`(\w+)`", step)} == {*description["record"], *description["step"]}
    (beside,) = re.findall(r"holds the same, with (.+?), one for each", page)
    assert {*re.findall(r"`(\w+)`", beside)} == {*description["record"], *description["plan"]}
    assert f"Schema: {description['schema']}." in page


def test_an_axis_is_added_in_one_place(tmp_path):
    for package in ("bench", "reports"):
        ignored = shutil.ignore_patterns("published", "__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    text = (tmp_path / DESCRIPTION).read_text(encoding="utf-8")
    (tmp_path / DESCRIPTION).write_text(text.replace("\n[sample]", f"{AXIS}[sample]"), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "run")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "written": {"whole": "full", "near": "sliding"},
        "samples": {"whole": "full", "near": "sliding"},
        "titles": [
            ["cpu, float32, 7 tokens", "cpu-float32-s7"],
            ["cpu, float32, sliding window, 7 tokens", "cpu-float32-sliding-s7"],
        ],
        "rows": [
            "digits, 50 % kept, taylor, batch 2, full window", "digits, 50 % kept, taylor, batch 2, sliding window",
        ],
        "summary": 1,
    }  # fmt: skip
