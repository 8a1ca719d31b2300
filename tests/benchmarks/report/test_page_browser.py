"""The page in a real browser: it loads silently, prints, and fits a telephone's width."""

import re
import shutil
import subprocess
from html import escape
from pathlib import Path

import pytest
from page_results import SECTIONS

_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, _NAMES)), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
]

NARROW = 390
# A headless window is at least 500 pixels wide on some platforms; a frame is as wide as it is told.
WRAPPER = """<!doctype html><title>measuring</title>
<iframe width="{width}" height="800" style="border:0" srcdoc="{page}"></iframe>
<script>
document.querySelector("iframe").onload = event => {{
  const page = event.target.contentDocument, wide = [];
  for (const folded of page.querySelectorAll("details")) folded.open = true;
  for (const element of page.body.querySelectorAll("*")) {{
    const box = element.getBoundingClientRect();
    // what is within a scrolling box may be wider, and so may what a drawing cuts off itself
    const inside = element.parentElement.closest(".scroll, svg");
    if (box.right > {width} + 1 && !inside) wide.push(element.tagName);
  }}
  document.title = "inner " + page.documentElement.clientWidth + ", needs "
    + page.documentElement.scrollWidth + ", wider: " + wide.join(" ");
}};
</script>
"""


def browse(path: Path, *options: str) -> tuple[str, str]:
    """What the browser writes, and what it says while it loads ``path``."""
    assert CHROMIUM is not None
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
        *(f"--user-data-dir={path.parent / 'browser'}", *options, path.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def complaints(said: str) -> list[str]:
    """The lines in which the page itself, and not the browser, complains."""
    return [line for line in said.splitlines() if ":CONSOLE" in line]


def test_the_page_loads_prints_and_fits(page: str, tmp_path: Path) -> None:
    path, printed, wrapper = (tmp_path / name for name in ("page.html", "p.pdf", "wrapper.html"))
    path.write_text(page, "utf-8")
    shown, said = browse(path, "--dump-dom")
    assert complaints(said) == []
    assert re.findall(r'<h2 id="([\w-]+)-title">', shown) == [*SECTIONS]
    assert shown.count("<svg") >= page.count("<svg")

    _, said = browse(path, f"--print-to-pdf={printed}")
    assert complaints(said) == []
    content = printed.read_bytes()
    assert content.startswith(b"%PDF")
    assert len(content) > 50_000

    wrapper.write_text(WRAPPER.format(width=NARROW, page=escape(page)), "utf-8")
    shown, said = browse(wrapper, "--dump-dom")
    assert complaints(said) == []
    title = re.search(r"<title>(inner (\d+), needs (\d+), wider:(.*))</title>", shown)
    assert title is not None, shown[:200]
    assert int(title[2]) <= NARROW
    assert int(title[3]) <= int(title[2]), title[1]
    assert title[4].strip() == "", title[1]


def test_a_complaint_of_a_page_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text("<!doctype html><script>console.error('broken')</script>", "utf-8")
    _, said = browse(path, "--dump-dom")
    assert len(complaints(said)) == 1
