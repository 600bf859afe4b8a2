"""The gate on GitHub: what may do what, and that nothing of a pull request is executed where there are rights.

The workflows are read as YAML; the script that comments runs in Node, with the API played by a few lines.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bench.regress.show.markdown import MARKER, markdown
from tests.reports import synthetic_gate as synthetic

WORKFLOWS = Path(__file__).parents[3] / ".github" / "workflows"
NODE = shutil.which("node")
CHOSEN = re.compile(r"\$\{\{[^}]*(head_ref|base_ref|head_branch|\.title|\.body|\.label|\.login|\.sha|head_sha|inputs)")
SHA = "0123456789" * 4
RUN = {
    "head_sha": SHA, "head_branch": "faster", "html_url": "https://a.example/runs/7",
    "head_repository": {"id": 5, "owner": {"login": "someone"}},
}  # fmt: skip
PLAY = """
const {readFileSync} = require('fs');
const {script, run, pulls, comments} = JSON.parse(readFileSync(0, 'utf8'));
const calls = [];
const rest = {
  pulls: {list: 'pulls'},
  issues: {
    listComments: 'comments',
    updateComment: async given => calls.push(['update', given]),
    createComment: async given => calls.push(['create', given]),
  },
};
const paginate = async (what, given) => { calls.push([what, given]); return {pulls, comments}[what]; };
const context = {repo: {owner: 'o', repo: 'r'}, payload: {workflow_run: run}};
const core = {notice: text => calls.push(['notice', text])};
const AsyncFunction = (async () => {}).constructor;
new AsyncFunction('github', 'context', 'core', 'require', script)({rest, paginate}, context, core, require)
  .then(() => console.log(JSON.stringify(calls)));
"""


def workflow(name: str) -> dict:
    return yaml.safe_load((WORKFLOWS / name).read_text(encoding="utf-8"))


def steps(name: str) -> list[dict]:
    return [step for job in workflow(name)["jobs"].values() for step in job["steps"]]


def using(name: str, action: str) -> dict:
    (step,) = [step for step in steps(name) if step.get("uses", "").startswith(f"{action}@")]
    return step["with"]


def test_measuring_may_only_read():
    gate = workflow("gate.yml")
    assert gate[True] == {"pull_request": None}  # YAML 1.1 reads "on" so; never pull_request_target
    assert gate["permissions"] == {"contents": "read"}
    assert [job.get("permissions") for job in gate["jobs"].values()] == [None]
    assert using("gate.yml", "actions/checkout") == {"persist-credentials": False, "fetch-depth": 0}
    assert gate["concurrency"]["cancel-in-progress"] is True
    (job,) = gate["jobs"].values()
    assert 15 <= job["timeout-minutes"] <= 60


def test_commenting_has_no_other_rights_than_it_needs():
    comment = workflow("gate-comment.yml")
    assert comment[True] == {"workflow_run": {"workflows": [workflow("gate.yml")["name"]], "types": ["completed"]}}
    assert comment["permissions"] == {}
    (job,) = comment["jobs"].values()
    assert job["permissions"] == {"actions": "read", "contents": "read", "pull-requests": "write"}
    assert "workflow_run.event == 'pull_request'" in job["if"]


def test_commenting_runs_the_default_branchs_code_and_takes_the_artifact_as_data():
    checkout = using("gate-comment.yml", "actions/checkout")
    assert checkout == {"ref": "${{ github.event.repository.default_branch }}", "persist-credentials": False}
    artifact = using("gate-comment.yml", "actions/download-artifact")
    assert artifact["path"] == "${{ runner.temp }}/gate"  # outside the checkout
    assert artifact["run-id"] == "${{ github.event.workflow_run.id }}"
    assert artifact["name"] == using("gate.yml", "actions/upload-artifact")["name"]
    (run,) = [step for step in steps("gate-comment.yml") if "run" in step]
    assert set(run["env"]) == {"VERDICT", "COMMENT"}  # no token
    assert run["run"].count("python") == 1
    assert 'python -m bench.regress.show markdown "$VERDICT" > "$COMMENT"' in run["run"]


@pytest.mark.parametrize("name", ["ci.yml", "gate.yml", "gate-comment.yml"])
def test_what_others_choose_is_never_part_of_a_script(name):
    text = (WORKFLOWS / name).read_text(encoding="utf-8")
    assert "secrets." not in text
    for step in steps(name):
        for script in (step.get("run", ""), step.get("with", {}).get("script", "")):
            assert not CHOSEN.search(script)
            assert name == "ci.yml" or "${{" not in script


@pytest.mark.parametrize("expression", ["github.head_ref", "github.event.pull_request.title", "github.base_ref"])
def test_the_check_of_scripts_finds_what_is_wrong(expression):
    assert CHOSEN.search(f"echo ${{{{ {expression} }}}}")


def pins(text: str) -> list[tuple[str, str, str]]:
    """Of every action that a workflow uses its name, what stands behind the "@", and the comment behind that."""
    return re.findall(r"^[ -]*uses: +(\S+?)(?:@(\S*))?(?: +# (.*))?$", text, flags=re.MULTILINE)


def unpinned(text: str) -> list[str]:
    """Actions of others that are not pinned by commit, or don't say which version that is."""
    return [
        action
        for action, commit, said in pins(text)
        if not action.startswith("./")
        and not (re.fullmatch(r"[0-9a-f]{40}", commit) and re.fullmatch(r"v\d+\.\d+\.\d+", said))
    ]


def test_actions_are_pinned_by_commit_and_alike_everywhere():
    """A tag can be moved to other code; a commit can't."""
    found = {}
    for path in WORKFLOWS.glob("*.y*ml"):
        text = path.read_text(encoding="utf-8")
        assert unpinned(text) == [], path.name
        assert len(pins(text)) == sum("uses" in step for step in steps(path.name)), path.name
        for action, commit, said in pins(text):
            found.setdefault(action, set()).add((commit, said))
    assert all(action.startswith("actions/") for action in found), found
    assert all(len(versions) == 1 for versions in found.values()), found


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (f"- uses: actions/checkout@{SHA}  # v5.1.0", []),
        ("- uses: ./.github/actions/ours", []),
        ("- uses: actions/checkout@v5", ["actions/checkout"]),
        ("- uses: actions/checkout@v5  # v5.1.0", ["actions/checkout"]),
        (f"  uses: actions/checkout@{SHA[:12]}  # v5.1.0", ["actions/checkout"]),
        (f"- uses: actions/checkout@{SHA}", ["actions/checkout"]),
        (f"- uses: actions/checkout@{SHA}  # the newest", ["actions/checkout"]),
        ("- uses: actions/checkout", ["actions/checkout"]),
        ("- uses: docker://alpine:3", ["docker://alpine:3"]),
    ],
)
def test_the_check_of_pins_finds_what_is_not_pinned(line, wrong):
    assert unpinned(f"steps:\n      {line}\n") == wrong


def test_the_gate_is_started_as_the_readme_says_and_the_base_is_no_code():
    (step,) = [step for step in steps("gate.yml") if "nox" in step.get("run", "")]
    assert step["run"] == 'python -m pip install nox && nox -s regress -- --base "origin/$BASE" --run runs/gate'
    assert step["env"] == {"BASE": "${{ github.base_ref }}"}


def test_results_are_kept_and_shown_even_if_the_gate_fails():
    after = steps("gate.yml")[-2:]
    assert [step["if"] for step in after] == ["always()", "always()"]
    assert 'runs/gate/summary.md >> "$GITHUB_STEP_SUMMARY"' in after[0]["run"]
    paths = after[1]["with"]["path"].split()
    for file in (
        "verdict.json",
        "summary.md",
        "junit.xml",
        "effects.svg",
        "effects.png",
        "rounds/0000.json",
    ):
        assert any(Path("runs/gate", file).match(pattern) for pattern in paths)


@pytest.mark.parametrize("content", [None, "{", "link"])
def test_where_there_is_no_verdict_the_comment_says_so(tmp_path, pytestconfig, content):
    (run,) = [step["run"] for step in steps("gate-comment.yml") if "run" in step]
    verdict, comment = tmp_path / "verdict.json", tmp_path / "comment.md"
    if content == "link":
        verdict.symlink_to(pytestconfig.rootpath / "pyproject.toml")
    elif content:
        verdict.write_text(content)
    environment = {"PATH": "/usr/bin:/bin", "VERDICT": str(verdict), "COMMENT": str(comment)}
    subprocess.run(["bash", "-e", "-c", run], cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert comment.read_text() == f"{MARKER}\n**No verdict**: the regression gate ended without one.\n"


def test_the_comment_is_written_from_the_verdict(tmp_path, pytestconfig):
    (run,) = [step["run"] for step in steps("gate-comment.yml") if "run" in step]
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -S -X utf8 "$@"\n')
    (tmp_path / "python").chmod(0o755)
    verdict, comment = tmp_path / "verdict.json", tmp_path / "comment.md"
    verdict.write_text(json.dumps(synthetic.regressed()))
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "VERDICT": str(verdict), "COMMENT": str(comment)}
    subprocess.run(["bash", "-e", "-c", run], cwd=pytestconfig.rootpath, env=environment, check=True)
    assert comment.read_text(encoding="utf-8") == markdown(synthetic.regressed())


def play(tmp_path: Path, words: str, pulls: list[dict], comments: list[dict]) -> list[list]:
    """What the script asks of the API, in order."""
    (tmp_path / "comment.md").write_text(words, encoding="utf-8")
    script = using("gate-comment.yml", "actions/github-script")["script"]
    given = json.dumps({"script": script, "run": RUN, "pulls": pulls, "comments": comments})
    environment = {"COMMENT": str(tmp_path / "comment.md")}
    done = subprocess.run([NODE, "-e", PLAY], input=given, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def pull(number: int, sha: str = SHA, repository: int | None = 5) -> dict:
    return {"number": number, "head": {"sha": sha, "repo": repository and {"id": repository}}}


def said(login: str, body: str, number: int) -> dict:
    return {"id": number, "user": {"login": login}, "body": body}


@pytest.mark.skipif(NODE is None, reason="needs Node")
class TestTheScript:
    def test_the_pull_request_is_the_one_whose_head_was_measured(self, tmp_path):
        pulls = [pull(1, sha="f" * 40), pull(2, repository=6), pull(3, repository=None), pull(4)]
        calls = play(tmp_path, f"{MARKER}\n**PASS**", pulls, [])
        assert [name for name, _ in calls] == ["pulls", "comments", "create"]
        assert calls[0][1] == {"owner": "o", "repo": "r", "state": "open", "head": "someone:faster", "per_page": 100}
        assert calls[-1][1]["issue_number"] == 4
        assert (
            calls[-1][1]["body"]
            == f"{MARKER}\n**PASS**\n[The run and its results](https://a.example/runs/7), of 0123456789."
        )

    def test_a_comment_of_ours_is_updated_and_nobody_elses(self, tmp_path):
        comments = [said("someone", MARKER, 1), said("github-actions[bot]", "else", 2),
                    said("github-actions[bot]", f"{MARKER}\nold", 3)]  # fmt: skip
        calls = play(tmp_path, f"{MARKER}\n**PASS**", [pull(4)], comments)
        assert [name for name, _ in calls] == ["pulls", "comments", "update"]
        assert calls[-1][1]["comment_id"] == 3

    def test_a_commit_that_is_no_longer_the_head_is_left_alone(self, tmp_path):
        calls = play(tmp_path, MARKER, [pull(1, sha="f" * 40)], [])
        assert [name for name, _ in calls] == ["pulls", "notice"]

    def test_what_is_too_long_is_cut(self, tmp_path):
        calls = play(tmp_path, MARKER + "x" * 100_000, [pull(4)], [])
        assert len(calls[-1][1]["body"]) < 65_536
