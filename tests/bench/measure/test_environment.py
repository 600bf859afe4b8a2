"""Which code a run is of: the revision of a checkout, and a hash that a wheel of it shares."""

import subprocess

from bench.measure.environment import _revision, _sources, digest


def test_a_folder_within_somebody_elses_repository_has_no_revision(tmp_path):
    def git(*words):
        who = ("-c", "user.name=a", "-c", "user.email=a@localhost")
        return subprocess.run(["git", "-C", tmp_path, *who, *words], check=True, capture_output=True, text=True).stdout

    ours, installed = tmp_path / "bench", tmp_path / ".venv" / "bench"
    for folder in (ours, installed):
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
    assert _revision(ours) == (None, None)
    git("init", "-q")
    assert _revision(ours) == (None, None)
    git("add", "bench")
    git("commit", "-qm", "first")
    (tmp_path / ".gitignore").write_text(".venv\n")
    assert _revision(installed) == (None, None)
    assert _revision(ours) == (git("rev-parse", "HEAD").strip(), True)


def test_code_is_the_same_in_a_wheel_that_holds_the_suite_within_the_library(tmp_path):
    def write(folder):
        (folder / "below").mkdir(parents=True)
        for name in ("a.py", "below/b.py", "z.toml", "page.html"):
            (folder / name).write_text(name)

    checkout, wheel = tmp_path / "checkout" / "mha", tmp_path / "site-packages" / "mha"
    write(checkout)
    write(wheel)
    write(wheel / "_suite" / "bench")
    assert digest(_sources(wheel)) == digest(_sources(checkout))
    assert [path.name for path in _sources(checkout)] == ["a.py", "b.py", "z.toml"]
    assert digest(_sources(wheel / "_suite" / "bench")) == digest(_sources(checkout))
