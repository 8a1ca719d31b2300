"""The page at `/` in a real browser: a picture is dropped on it, and its labels are seen."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from serving import ask, picture_file, running
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route

from repr_serve import HttpApp

_NAMES = ("chromium", "chromium-browser", "google-chrome")
PNG = picture_file("PNG")
CHROMIUM = next(filter(None, map(shutil.which, _NAMES)), None)
# What is seen is told by a page around it: a headless browser has nobody who drops pictures.
AROUND = """<!doctype html><title>around</title><link rel="icon" href="data:,">
<iframe src="/" width="390" height="900"></iframe>
<pre id="seen"></pre><script>
async function until(what) {
  for (let i = 0; i < 200 && !what(); i++) await new Promise(r => setTimeout(r, 25));
}
document.querySelector("iframe").onload = async event => {
  const view = event.target.contentWindow, page = view.document;
  const all = query => [...page.querySelectorAll(query)].map(each => each.textContent.trim());
  await until(() => all("#card dd").length);
  const moved = new view.DataTransfer();
  const content = await (await fetch("/picture")).blob();
  moved.items.add(new view.File([content], "p", {type: content.type}));
  page.dispatchEvent(new view.DragEvent("drop", {dataTransfer: moved, cancelable: true}));
  await until(() => all("#labels li").length || all("#error")[0]);
  document.querySelector("#seen").textContent = JSON.stringify({
    models: all("#model option"), labels: all("#labels li span:first-child"),
    error: all("#error")[0], times: all("#times")[0], card: all("#card dd").join("; "),
    wide: page.documentElement.scrollWidth - page.documentElement.clientWidth});
};
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
@pytest.mark.parametrize("kind", ["image/png", "text/plain"])
def test_a_picture_is_dropped_and_its_labels_are_seen(
    served: HttpApp, tmp_path: Path, kind: str
) -> None:
    content = PNG if kind == "image/png" else b"hello"

    async def around(_: Request) -> Response:
        return HTMLResponse(AROUND)

    async def picture(_: Request) -> Response:
        return Response(content, media_type=kind)

    routes = [Route("/around", around), Route("/picture", picture), Mount("/", served)]
    with running(Starlette(routes=routes), lifespan="off") as port:
        expected = ask(port, "/v2/models/tiny/classify", PNG).json["predictions"][0]
        command = [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu"),
            *("--enable-logging=stderr", f"--user-data-dir={tmp_path / 'browser'}"),
            *("--virtual-time-budget=20000", "--dump-dom", f"http://127.0.0.1:{port}/around"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stdout
    seen = json.loads(html.unescape(found[1]))
    assert seen["models"] == ["tiny"]
    assert "3 golden samples within" in seen["card"]
    assert seen["wide"] <= 0
    complaints = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    if kind == "image/png":
        assert seen["labels"] == [one["label"] for one in expected["top"]]
        assert "ms in the service" in seen["times"]
        assert (seen["error"], complaints) == ("", []), complaints
    else:  # what is no picture is told so
        assert "image/jpeg, image/png or image/webp" in seen["error"]
        assert seen["labels"] == []
