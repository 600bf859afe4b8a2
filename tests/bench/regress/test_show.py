"""A verdict as a table, as Markdown and as JUnit XML: the planted numbers, and nobody else's markup."""

import io
import json
import math
import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest
from markdown_it import MarkdownIt

from bench.regress.show import __main__ as command
from bench.regress.show import verdict_text as words
from bench.regress.show.junit import junit
from bench.regress.show.markdown import LIMIT, MARKER, escape, markdown
from bench.regress.show.terminal import show
from bench.regress.verdict import EXIT_CODES, SKIPPED
from reports.figures.gate import effects
from reports.read import gate_verdict as load
from tests.reports import synthetic_gate as synthetic

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
FOUR = range(4)
HOSTILE = "\x1b[31m|<img src=x>`\n# @octocat [link](https://a.example) www.a.example $x$ **b** \u202egfh"


def table(verdict) -> str:
    file = io.StringIO()
    show(verdict, file)
    return file.getvalue()


def cells(text: str) -> list[list[str]]:
    """What a reader sees in the rows of all tables, headings left out."""
    found, inside = [], False
    for token in PARSER.parse(text):
        if token.type == "tbody_open":
            inside = True
        elif token.type == "tbody_close":
            inside = False
        elif inside and token.type == "tr_open":
            found.append([])
        elif inside and token.type == "inline":
            found[-1].append(plain(token))
    return found


def plain(inline) -> str:
    return "".join(token.content for token in inline.children if token.type in ("text", "text_special"))


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (0.00637, "seconds", "6.370 ms"),
        (0.01022, "seconds", "10.22 ms"),
        (0.9996, "seconds", "999.6 ms"),
        (1.5, "seconds", "1.500 s"),
        (0.0000123456, "seconds", "12.35 µs"),
        (0.5123, "ratio", "0.512"),
        (None, "seconds", "–"),
        (math.nan, "seconds", "–"),
        ("6", "seconds", "–"),
        (True, "seconds", "–"),
        (10**400, "seconds", "–"),
    ],
)
def test_times_have_a_unit_and_four_digits(value, kind, expected):
    assert words.time({"head": value, "kind": kind}, "head") == expected


@pytest.mark.parametrize(("p", "expected"), [(0.6, "0.60"), (0.0039, "0.0039"), (2e-6, "< 0.0001"), (None, "–")])
def test_chances(p, expected):
    assert words.chance(p) == expected


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (synthetic.verdict(), "no regression in 14 benchmarks and 56 exact figures"),
        (
            synthetic.regressed(),
            "dense-4x64 is 10.0 % slower [8.5, 11.7]; parameters of half-4x64 went from 1,050,624 to 1,060,000 "
            "(+0.892 %)",
        ),
        (synthetic.baseline(), "prune-gpt2 is 8.0 % faster, relative to dense [5.8, 10.0]"),
        (synthetic.inconclusive(), "half-1x16, dense-1x16, half-8x128 and 3 more: can't be judged"),
        (synthetic.verdict("INCONCLUSIVE", why=["the control moved by 4 %"]), "the control moved by 4 %"),
        (synthetic.verdict("ERROR", [], figures=[]), "no reason is given"),
        (
            synthetic.verdict("NEW", [synthetic.nothing("dense-1x8", "NEW", "only the head has it")]),
            "dense-1x8: new, with no base to compare with",
        ),
        (
            synthetic.verdict("REGRESSED", [synthetic.row(f"b{n}", 0.1 + n / 100, 0.01, "REGRESSED") for n in FOUR]),
            "b3 is 13.0 % slower [12.0, 14.1]; b2 is 12.0 % slower [11.0, 13.1]; b1 is 11.0 % slower [10.0, 12.1]; "
            "1 more",
        ),
    ],
)  # fmt: skip
def test_headlines_have_the_planted_numbers(verdict, expected):
    assert words.headline(verdict) == expected
    assert " ".join(table(verdict).split()).startswith(f"{verdict['verdict']}: {expected}")


def test_of_an_accuracy_the_interval_of_the_difference_is_shown():
    row = synthetic.exact("half-4x64", "accuracy", 0.95, 0.93, "REGRESSED", low=-0.03, high=-0.01)
    assert words.change(row) == "-0.0200 [-0.0300, -0.0100]"
    assert words.exact(row, "base") == "0.95"
    assert words.change(synthetic.exact("a", "flops", 0, 5)) == "+5"
    assert words.change(synthetic.exact("a", "flops", None, 5, "NEW")) == "–"


def test_the_table_has_what_needs_a_look_first_then_the_slowest():
    lines = table(synthetic.inconclusive()).splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("benchmark")) + 2
    names = [line.split()[0] for line in lines[start : start + 18] if line.strip()]
    assert names[0] == "legacy-4x64"
    assert names[1:7] == ["half-1x16", "dense-1x16", "half-8x128", "dense-8x128", "dense-4x64", "half-4x64"]
    assert names[7:10] == ["cosine-4x64", "prune-gpt2", "causal-1x64"]
    assert names[-2:] == ["grouped-4x64", "control"]


def test_the_table_in_a_pipe_is_plain_and_fits_in_100_columns():
    verdict = synthetic.regressed()
    verdict["benchmarks"][2]["name"] = "a-name-that-goes-on-and-on-" * 3
    text = table(verdict)
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("dense-4x64")]
    assert " ".join(line.split()) == "dense-4x64 10.20 ms 11.22 ms +10.0 [+8.5, +11.7] 0.6 < 0.0001 REGRESSED"
    assert "…" not in text


def test_the_table_says_what_else_counts():
    text = " ".join(table(synthetic.regressed()).split())
    assert "half-4x64 parameters 1,050,624 1,060,000 +0.892 % REGRESSED" in text
    assert "55 exact figures unchanged" in text
    assert (
        "dense-4x64: slower in both measurements; measured again (20 rounds); the first look saw +11.2 % [+7.0, +15.1]"
        in text
    )
    assert "base origin/main (0123456789), head HEAD (abcdef0123, with uncommitted changes)" in text
    assert "the head has uncommitted changes and was measured with them" in text
    assert "0.03 cores used by others" in text
    assert "a stored run is compared by ratios (pruned/dense) and exact figures only" in table(synthetic.baseline())


def test_names_are_no_markup_of_the_terminal():
    text = table(synthetic.verdict(benchmarks=[synthetic.row("[red]a[/red]\x1b[2J\r\u202eb", 0.0)]))
    assert "[red]a[/red]" in "".join(line.split()[0] for line in text.splitlines() if line[:1] == "[")
    assert "\x1b" not in text
    assert "\u202e" not in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b", r"a\|b"),
        ("<img src=x>", "&lt;img src=x&gt;"),
        ("&lt;", "&amp;lt;"),
        ("`a`", r"\`a\`"),
        ("a\nb\r\n\n# c", "a b \\#&#8203; c"),
        ("@octocat", "@&#8203;octocat"),
        ("fixes #12", r"fixes \#&#8203;12"),
        ("GH-12", "GH&#8203;-12"),
        ("https://a.example", "https:&#8203;//a.example"),
        ("www.a.example", "www&#8203;.a.example"),
        ("[a](b)", r"\[a\](b)"),
        ("![a](b)", r"!\[a\](b)"),
        ("**a** _b_ ~~c~~", r"\*\*a\*\* \_b\_ \~\~c\~\~"),
        ("$x$", "<span>$</span>x<span>$</span>"),
        ("\\|", r"\\\|"),
        ("<!-- -->", "&lt;!-- --&gt;"),
        ("- a", r"\- a"),
        ("1. a", r"1\. a"),
        ("+ a", r"\+ a"),
        ("---", r"\---"),
        ("a\x00\x1b\u200b\u202e\ud800b", "ab"),
        ("dense-4x64", "dense-4x64"),
        ("x" * 400, "x" * 299 + "…"),
    ],
)  # fmt: skip
def test_escapes(text, expected):
    assert escape(text) == expected


@pytest.mark.parametrize(
    "text", [HOSTILE, "| --- |", "a || b |", "\\", "</details>", "<!-- mha-gate -->", "```", "> a", "&amp;"]
)
def test_what_is_escaped_reads_as_it_was(text):
    (paragraph,) = [token for token in PARSER.parse(escape(text)) if token.type == "inline"]
    spans = [token.content for token in paragraph.children if token.type == "html_inline"]
    assert set(spans) <= {"<span>", "</span>"}
    assert {token.type for token in paragraph.children} <= {"text", "text_special", "html_inline"}
    assert plain(paragraph).replace("\u200b", "") == words.clean(text)


def test_markdown_begins_with_the_marker_and_the_verdict_in_words():
    first, second, *_ = markdown(synthetic.regressed()).splitlines()
    assert first == MARKER == "<!-- mha-gate -->"
    assert second.startswith(r"**REGRESSED**: dense-4x64 is 10.0 % slower \[8.5, 11.7\]; parameters of half-4x64 went")


def test_markdown_has_the_flagged_rows_first_and_the_others_folded():
    text = markdown(synthetic.regressed())
    assert cells(text)[0] == [
        "dense-4x64",
        "10.20 ms",
        "11.22 ms",
        "+10.0",
        "[+8.5, +11.7]",
        "0.6",
        "< 0.0001",
        "REGRESSED",
    ]
    assert cells(text)[1] == ["half-4x64", "parameters", "1,050,624", "1,060,000", "+0.892 %", "REGRESSED"]
    assert len(cells(text)) == 2 + 14
    above, folded = text.split("<details><summary>14 rows without a finding</summary>")
    assert "half-1x16" not in above
    assert "| control | 6.370 ms | 6.376 ms |" in folded.split("</details>")[0]
    assert "55 exact figures unchanged." in above
    assert "- the head has uncommitted changes\n" in above
    assert "compared: base origin/main (0123456789), head HEAD (abcdef0123, with uncommitted changes)" in folded
    assert (
        "measured: AMD EPYC 7B13, 2 cores, 1 thread, 0.03 cores used by others meanwhile, Python 3.11.7, torch"
        in folded
    )
    assert "lower bound of a slowdown is above 1.5 %" in folded
    assert "exact figures may not get worse (peak bytes: not by 0.1 % and 4,096)." in folded
    (fence,) = [token for token in PARSER.parse(text) if token.type == "fence"]
    assert fence.content == "python -m bench.regress --base origin/main\n"


def test_a_control_that_moved_is_not_folded():
    verdict = synthetic.verdict("INCONCLUSIVE", why=["the control moved"])
    verdict["control"]["verdict"] = "REGRESSED"
    above, folded = markdown(verdict).split("<details>")
    assert "| control |" in above
    assert "| control |" not in folded


def test_markdown_of_hostile_results_is_nobody_elses():
    verdict = synthetic.regressed()
    verdict |= {"why": [HOSTILE], "command": f"{HOSTILE} ``````", "created": HOSTILE}
    verdict["base"] |= {"label": HOSTILE, "revision": HOSTILE, "python": HOSTILE}
    verdict["machine"] |= {"cpu": HOSTILE, "packages": {"torch": HOSTILE}}
    verdict["benchmarks"][1] |= {"name": HOSTILE, "why": HOSTILE}
    verdict["figures"][16] |= {"benchmark": HOSTILE, "figure": HOSTILE, "why": HOSTILE}
    text = markdown(verdict)
    rows = cells(text)
    assert [len(row) for row in rows] == [8, 6, *[8] * 14]
    assert rows[0][0].replace("\u200b", "") == words.clean(HOSTILE)
    tokens = [token for one in PARSER.parse(text) for token in (one, *(one.children or ()))]
    assert {token.type for token in tokens} & {
        "link_open",
        "image",
        "heading_open",
        "code_inline",
        "em_open",
        "s_open",
    } == set()
    assert [token.content.strip() for token in tokens if token.type == "html_block"] == [
        MARKER, "<details><summary>14 rows without a finding</summary>", "</details>",
    ]  # fmt: skip
    assert {token.content for token in tokens if token.type == "html_inline"} == {"<span>", "</span>"}
    outside = text.split("`" * 7)[0]
    assert "@octocat" not in outside
    assert "https://" not in outside


@pytest.mark.parametrize("verdict", ["PASS", "REGRESSED"])
def test_thousands_of_benchmarks_are_cut_and_counted(verdict):
    benchmarks = [synthetic.row(f"dense-{n}x64-{'é$' * 40}", n / 1e5, verdict=verdict) for n in range(1500)]
    text = markdown(synthetic.verdict(verdict, benchmarks))
    assert LIMIT - 1500 < len(text.encode()) <= LIMIT < 65_536
    shown = len(cells(text))
    left = 1500 + 1 - shown
    assert f"{left} lines left out: GitHub takes comments of at most 65,536 characters; all is in verdict.json." in text
    assert text.count("<details>") == text.count("</details>")
    assert "python -m bench.regress --base origin/main" in text


def test_a_row_whose_every_word_is_long_still_fits():
    rows = [synthetic.nothing("@$" * 5000, "ERROR", "@$" * 5000) for _ in range(20)]
    verdict = synthetic.verdict("ERROR", rows, why=["@$" * 5000] * 100, command="`" * 50_000)
    verdict["base"]["label"] = verdict["head"]["label"] = verdict["machine"]["cpu"] = "@$" * 5000
    assert len(markdown(verdict).encode()) <= LIMIT


def test_junit_has_a_testcase_for_each_row():
    root = ET.fromstring(junit(synthetic.regressed()))
    assert root.tag == "testsuites"
    (suite,) = root
    for element in (root, suite):
        assert element.attrib.items() >= {
            "name": "mha gate", "tests": "70", "failures": "2", "errors": "0", "skipped": "0", "time": "243.100",
        }.items()  # fmt: skip
    cases = {(case.get("classname"), case.get("name")): case for case in suite.iter("testcase")}
    assert len(cases) == 14 + 56
    case = cases["gate.benchmark", "dense-4x64"]
    assert {one.get("name"): float(one.get("value")) for one in case.iter("property")} == {
        "effect": 0.1, "low": 0.1 - 0.015, "high": 0.1 + 1.1 * 0.015, "floor": 0.006, "adjusted": 0.000013,
    }  # fmt: skip
    assert float(case.get("time")) == 0.01122
    assert (
        case.find("failure").get("message").startswith("REGRESSED: dense-4x64 is 10.0 % slower [8.5, 11.7]; slower in")
    )
    assert case.find("failure").get("type") == "REGRESSED"
    counted = cases["gate.exact", "half-4x64 parameters"].find("failure").get("message")
    assert counted == "REGRESSED: 1,050,624 at the base, 1,060,000 at the head"
    assert [one.tag for one in cases["gate.benchmark", "half-1x16"]] == ["properties"]


def test_junit_counts_what_it_has():
    suite = ET.fromstring(junit(synthetic.inconclusive())).find("testsuite")
    counts = {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": 72, "failures": 0, "errors": 1, "skipped": 7}
    found = {tag: len(suite.findall(f"testcase/{tag}")) for tag in ("failure", "error", "skipped")}
    assert found == {"failure": 0, "error": 1, "skipped": 7}
    messages = {
        case.get("name"): case.find("skipped").get("message") for case in suite if case.find("skipped") is not None
    }
    assert messages["cosine-4x64"] == "NEW: only the head has it"
    assert messages["half-1x16"].endswith("[-11.0, 24.7]; a slowdown of 10 % could not have been seen")


def test_what_is_skipped_is_shown_with_its_reason():
    why = "it is skipped: needs a GPU"
    found = synthetic.verdict(
        "PASS", [synthetic.row("dense-4x64", 0.001), synthetic.nothing("wide-4x64", "SKIPPED", why)]
    )
    case = ET.fromstring(junit(found)).find("testsuite/testcase[@name='wide-4x64']/skipped")
    assert case.get("message") == f"SKIPPED: {why}"
    for text in (markdown(found), table(found)):
        assert "no regression in 1 benchmark and 56 exact figures; 1 skipped" in " ".join(text.split())
        assert f"wide-4x64: {why}" in text


def test_all_who_read_a_verdict_know_the_same_words():
    assert {*words.ORDER} == {*load.VERDICTS} == {*effects.LOOKS} == {*EXIT_CODES, SKIPPED}


@pytest.mark.parametrize(
    ("overall", "tag", "count"), [("INCONCLUSIVE", "skipped", "skipped"), ("ERROR", "error", "errors")]
)
def test_a_verdict_of_the_whole_that_no_row_has_is_a_testcase(overall, tag, count):
    suite = ET.fromstring(junit(synthetic.verdict(overall, why=["the control moved by 4 %", "twice"]))).find(
        "testsuite"
    )
    (case,) = suite.findall("testcase[@classname='gate.verdict']")
    assert case.find(tag).get("message") == f"{overall}: the control moved by 4 %; twice"
    assert (suite.get("tests"), suite.get(count)) == ("71", "1")


@pytest.mark.parametrize("overall", ["PASS", "IMPROVED", "NEW"])
def test_no_row_is_made_up_where_nothing_would_be_lost(overall):
    rows = [synthetic.row("a", -0.1, verdict=overall)]
    assert "gate.verdict" not in junit(synthetic.verdict(overall, rows))


def test_what_xml_forbids_is_dropped():
    hostile = "a\x00\x08\x1b\ud800\ufffe\uffff<&>\"'é\U0001f5dd"
    verdict = synthetic.verdict("ERROR", [synthetic.nothing(hostile, "ERROR", hostile)], created=hostile)
    suite = ET.fromstring(junit(verdict).encode("utf-8")).find("testsuite")
    case = suite.find("testcase")
    assert case.get("name") == "a<&>\"'é\U0001f5dd"
    assert case.find("error").get("message") == "ERROR: a<&>\"'é\U0001f5dd"
    assert suite.get("timestamp") == "a<&>\"'é\U0001f5dd"


@pytest.mark.parametrize("wrong", [None, 7, "text", [1, "a", None], {"a": 1}, math.inf, True])
def test_what_is_of_another_type_counts_as_absent(wrong):
    some = synthetic.regressed()
    some |= {"benchmarks": some["benchmarks"][:2], "figures": some["figures"][:2]}
    for key in some:
        found = some | {key: wrong}
        assert markdown(found).startswith(MARKER)
        ET.fromstring(junit(found))
        assert table(found)
    for key in synthetic.row("a", 0.0):
        found = some | {"benchmarks": [synthetic.row("a", 0.0) | {key: wrong}]}
        assert markdown(found).startswith(MARKER)
        ET.fromstring(junit(found))
        assert table(found)


def test_markdown_and_xml_need_nothing_but_python(tmp_path, pytestconfig):
    path = tmp_path / "verdict.json"
    path.write_text(json.dumps(synthetic.regressed()), encoding="utf-8")
    for form, expected in (("markdown", markdown), ("junit", junit)):
        call = [sys.executable, "-S", "-X", "utf8", "-m", "bench.regress.show", form, path]  # -S: no installed packages
        done = subprocess.run(call, cwd=pytestconfig.rootpath, capture_output=True, encoding="utf-8", check=True)
        assert done.stdout == expected(synthetic.regressed())


def test_a_verdict_is_shown_again(tmp_path, capsys):
    path = tmp_path / "verdict.json"
    path.write_text(json.dumps(synthetic.verdict()), encoding="utf-8")
    command.main(["table", str(path)])
    assert capsys.readouterr().out == table(synthetic.verdict())


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "Expecting property name"),
        ("[]", "another document, or one of another schema"),
        ('{"schema": 2, "kind": "gate"}', "another document, or one of another schema"),
        ('{"schema": 1, "kind": "run"}', "another document, or one of another schema"),
        ("[" * 100_000, "recursion"),
        ("9" * 10_000, "integer string conversion"),
        (None, "No such file"),
    ],
)
def test_what_is_no_verdict_is_a_usage_error(tmp_path, capsys, content, why):
    path = tmp_path / "verdict.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit, match="2"):
        command.main(["markdown", str(path)])
    assert f"{path}: expected a verdict of the gate (schema 1): " in (said := capsys.readouterr().err)
    assert why in said


def test_a_file_too_large_is_not_read(tmp_path):
    path = tmp_path / "verdict.json"
    with path.open("wb") as file:
        file.truncate(command.LARGEST + 1)
    with pytest.raises(ValueError, match="it has 20,000,001 bytes, and a verdict at most 20,000,000"):
        command.read(path)
