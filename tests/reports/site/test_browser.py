"""The pages in a real browser, from disk, as wide as a desk and as a phone, by day and by night."""

import re
import shutil

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from reports.draw import drawing
from reports.site.build import build
from tests.reports.synthetic import fill_minimal, paired

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
QUIET = (  # a browser that stays at home
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--allow-file-access-from-files",
)  # fmt: skip
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PATHS = (
    "index.html", "runs/full/index.html", "runs/minimal/index.html", "runs/study/index.html",
    "compare/full--minimal/index.html", "gallery/index.html",
)  # fmt: skip
OVERLAPS = """() => {
  const texts = [...document.querySelectorAll("text")].filter(text => text.textContent.trim());
  const boxes = texts.map(text => text.getBoundingClientRect());
  const found = [];
  for (let i = 0; i < boxes.length; i++) for (let j = 0; j < i; j++) {
    const [a, b] = [boxes[i], boxes[j]];
    const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    const least = Math.min(a.height, b.height, a.width, b.width);  // of a line of text
    // boxes of a font reach above and below its letters
    if (across > 1 && down > 0.35 * least) found.push([texts[i].textContent, texts[j].textContent]);
  }
  return found;
}"""

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason=f"needs a browser, one of {', '.join(NAMES)}; Debian's package is chromium"
)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


class Visit:
    """A page that notes what a reader should never have: errors, requests that leave the site, dialogs."""

    def __init__(self, browser: Browser, **options) -> None:
        self.page: Page = browser.new_context(**options).new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda message: message.type in ("error", "warning") and self.note(message.text))
        self.page.on("pageerror", lambda error: self.note(str(error)))
        self.page.on("requestfailed", lambda request: self.note(f"failed: {request.url}"))
        self.page.on("request", lambda request: request.url.startswith(("file:", "data:")) or self.note(request.url))
        self.page.on("dialog", lambda dialog: (self.note(dialog.message), dialog.dismiss()))

    def note(self, complaint: str) -> None:
        self.complaints.append(complaint)


@pytest.fixture
def visit(browser):
    visits = []

    def start(**options) -> Visit:
        visits.append(Visit(browser, **options))
        return visits[-1]

    yield start
    for one in visits:
        one.page.context.close()


def unfold(page: Page) -> None:
    """Open everything, and wait for all figures."""
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    page.evaluate("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
    page.wait_for_function("[...document.images].every(image => image.complete)")


@pytest.mark.parametrize(
    ("size", "scheme"),
    [(DESK, "light"), (PHONE, "dark")],
    ids=["desk-light", "phone-dark"],  # neither minds the other
)
@pytest.mark.parametrize("path", PATHS)
def test_a_page_opens_without_complaint_and_fits(site, visit, path, size, scheme):
    seen = visit(viewport=size, color_scheme=scheme)
    page = seen.page
    page.goto((site / path).as_uri())
    unfold(page)
    assert page.evaluate("[...document.images].filter(image => !image.naturalWidth).map(image => image.src)") == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert seen.complaints == []
    paper = [int(part) for part in re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))]
    assert (max(paper) < 64) == (scheme == "dark")


@pytest.mark.parametrize("path", PATHS[:5])
def test_on_a_phone_no_figure_is_shrunk_beyond_reading(site, visit, path):
    page = visit(viewport=PHONE).page
    page.goto((site / path).as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    page.evaluate("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
    page.wait_for_function("[...document.images].every(image => image.complete)")
    scales = page.evaluate(
        "[...document.images].map(image => [image.currentSrc, image.clientWidth / image.naturalWidth])"
    )
    assert scales
    # an SVG's natural width is in CSS pixels at 96 to the inch
    assert {source: scale for source, scale in scales if scale < (0.6 if "-narrow" in source else 0.55)} == {}


def test_labels_do_not_overlap(site, visit):
    """Of every figure, the ones for phones, too, in the browser's own fonts."""
    figures = sorted(site.rglob("figures/*.svg"))
    assert len(figures) > 45
    page = visit().page
    found = {}
    for figure in figures:
        page.goto(figure.as_uri())
        if overlaps := page.evaluate(OVERLAPS):
            found[figure.name] = overlaps
    assert found == {}


def test_figures_follow_the_night(site, visit):
    figure = site / "runs" / "full" / "figures" / "digits-accuracy_latency-cpu-float32-s7-b2.svg"
    fills = {}
    for scheme in ("light", "dark"):
        page = visit(color_scheme=scheme).page
        page.goto(figure.as_uri())
        fills[scheme] = page.evaluate(
            "[...document.querySelectorAll('#patch_1 path, text')].map(shape => getComputedStyle(shape).fill)"
        )
    light, dark = (
        [sum(map(int, re.findall(r"\d+", fill)[:3])) / 3 for fill in fills[scheme]] for scheme in ("light", "dark")
    )
    assert len(light) > 10
    assert light[0] > 250 > 64 > dark[0]  # the paper
    assert all(one < 128 < other for one, other in zip(light[1:], dark[1:], strict=True))


def test_a_table_sorts_by_the_column_that_is_clicked(site, visit):
    page = visit(viewport=DESK).page
    page.goto((site / "runs" / "full" / "index.html").as_uri())
    table = page.locator("table.summary", has_text="against dense").first
    head = table.locator("th", has_text="speedup")
    place = head.evaluate("head => head.cellIndex")

    def column() -> list[str]:
        return table.evaluate(f"table => [...table.tBodies[0].rows].map(row => row.cells[{place}].dataset.order)")

    before = column()
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    numbers = [float(value) for value in column() if value]
    assert numbers == sorted(numbers)
    assert len(numbers) >= 4
    head.locator("button").press("Enter")  # a keyboard will do
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(value) for value in column() if value] == sorted(numbers, reverse=True)
    assert column()[-1] == "" or "" not in before  # what is not known stays last
    name = table.locator("th", has_text="criterion")
    name.locator("button").click()
    words = table.evaluate("table => [...table.tBodies[0].rows].map(row => row.cells[0].dataset.order)")
    assert words == sorted(words)


def test_a_deep_link_opens_what_is_folded_away(site, visit):
    page = visit(viewport=DESK).page
    page.goto((site / "runs" / "full" / "index.html").as_uri())
    page.evaluate("document.querySelector('details td').id = 'folded'")
    assert not page.locator("#folded").is_visible()
    page.evaluate("location.hash = 'folded'")
    page.wait_for_function("document.getElementById('folded').checkVisibility()")
    page.wait_for_function("document.getElementById('folded').getBoundingClientRect().top < innerHeight")


def test_from_the_start_to_a_figure_and_back(site, visit):
    page = visit(viewport=DESK).page
    page.goto((site / "index.html").as_uri())
    page.get_by_role("link", name="In its run").click()
    assert page.url.endswith("runs/full/index.html#digits-accuracy_latency-cpu-float32-s7-b2")
    page.get_by_role("link", name="All reports").click()
    assert page.url == (site / "index.html").as_uri()


def test_text_from_results_runs_nothing(write_run, tmp_path, visit, monkeypatch, alone):  # noqa: ARG001
    monkeypatch.setattr(drawing, "write_png", lambda _, file: file.write_bytes(bytes(1000)))  # no page shows them
    evil = "\"'><img src=x onerror=alert(1)><script>alert(2)</script>"

    def change(run):
        run.environment.update(cpu=evil, commands=[f"pytest bench {evil}"], dirty=True)
        run.task(evil, {evil: 2}, metric=evil, description=evil)
        run.plan(evil, "dense", 1.0, 0.9, plan="p1")
        run.plan(evil, evil, 0.5, 0.8, plan="p2")
        run.case(evil, evil, 0.5, 2, paired(0.1, 2.0), case="evil", device=evil)
        run.json("cases/worse.json", {"schema": 1, "status": "failed", "error": f"</pre>{evil}"})

    build([write_run("evil", fill=fill_minimal, change=change)], tmp_path / "out")
    seen = visit(viewport=DESK)
    for path in sorted((tmp_path / "out").rglob("*.html")):
        seen.page.goto(path.as_uri())
        unfold(seen.page)
    for path in sorted((tmp_path / "out").rglob("*.svg")):
        seen.page.goto(path.as_uri())
    assert seen.complaints == []
