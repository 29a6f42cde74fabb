"""The report in a real browser, where there is one: no error, nothing too wide, and tables that sort."""
from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from guided_sample.report import write_report
from tests.guided_sample.measured_runs import JUDGE, sweep

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")

WATCH = """<script>
window.errors = [];
for (const kind of ["error", "securitypolicyviolation"]) addEventListener(kind, e => errors.push(e.message || e.blockedURI));
for (const kind of ["error", "warn"]) console[kind] = (...told) => errors.push(told.join(" "));
</script>"""
LOOK = """<script>addEventListener("load", () => {
const table = [...document.querySelectorAll("table.sortable")].find(one => one.caption.textContent.startsWith("All runs"));
const heads = [...table.tHead.rows[0].cells], names = heads.map(one => one.textContent);
const column = name => [...table.tBodies[0].rows].map(row => row.cells[names.indexOf(name)].textContent);
const press = name => heads[names.indexOf(name)].querySelector("button").click();
const found = {errors, width: innerWidth, names, focusable: heads.every(one => one.querySelector("button").tabIndex === 0)};
press("DISTANCE"); found.up = column("DISTANCE"); found.sorted = heads[names.indexOf("DISTANCE")].ariaSort;
press("DISTANCE"); found.down = column("DISTANCE");
press("run"); found.runs = column("run");
const style = getComputedStyle(document.body);
const boxed = one => one.parentElement && one.parentElement.closest(".scroll, pre, svg");
Object.assign(found, {
  ink: style.color, paper: style.backgroundColor, scrolls: document.documentElement.scrollWidth,
  wide: [...document.querySelectorAll("body *")].filter(one => one.getBoundingClientRect().right > innerWidth + 0.5
    && one.getBoundingClientRect().width > 0 && !boxed(one)).map(one => one.outerHTML.slice(0, 80)),
  blank: [...document.images].filter(one => !one.complete || !one.naturalWidth).length, images: document.images.length});
parent.postMessage(JSON.stringify(found), "*");
});</script>"""
FRAME = """<!DOCTYPE html><meta name="color-scheme" content="light dark"><script>addEventListener("message", told =>
document.body.append(Object.assign(document.createElement("pre"), {id: "found", textContent: told.data})));</script>
<body><iframe src="ADDRESS" width="WIDTH" height="900" style="border: 0"></iframe></body>"""  # a window is no narrower than 500


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    path = write_report(sweep(folder / "runs"), folder, {"title": "Fruit" * 20, "name": "fruit", "expected": {"FID": 1.0}})
    look = LOOK.replace("DISTANCE", f"FD{JUDGE}-6")
    html = path.read_text(encoding="utf-8").replace("<head>", f"<head>{WATCH}{look}", 1)  # before the policy
    path.write_text(html, encoding="utf-8")
    return path


def looked_at(page: Path, width: int, *more: str):
    frame = page.with_name("frame.html")
    frame.write_text(FRAME.replace("ADDRESS", page.as_uri()).replace("WIDTH", str(width)), encoding="utf-8")
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=5000",
         f"--user-data-dir={page.parent / 'profile'}", *more, "--dump-dom", frame.as_uri()],
        capture_output=True, text=True, timeout=120)
    told = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert told, done.stdout[-500:] + done.stderr[-1000:]
    found = json.loads(unescape(told[1]))
    assert found["errors"] or "CONSOLE" not in done.stderr, done.stderr
    return found


@pytest.mark.parametrize("width", [400, 1200])
def test_nothing_fails_or_is_too_wide(page, width):
    found = looked_at(page, width)
    assert found["width"] == width and found["errors"] == [] and found["wide"] == [] and found["scrolls"] <= width
    assert found["images"] == 18 and found["blank"] == 0  # 3 scales and classes, 2 samplers


def test_tables_sort_by_numbers_and_by_names(page):
    found = looked_at(page, 1200)
    numbers = [float(text) for text in found["up"]]
    assert numbers == sorted(numbers) and len(set(numbers)) > 5 and found["sorted"] == "ascending"
    assert [float(text) for text in found["down"]] == numbers[::-1]
    assert found["runs"][0] == "ddim-scale-0-seed-0" and found["runs"][-1] == "ddpm-scale-10-seed-1" and found["focusable"]


def test_no_script_runs_that_is_not_the_page_s_own(page, tmp_path):
    foreign = '<script>errors.push("ran")</script><p id="evil"><img src="data:," onerror="errors.push(1)">'
    html = page.read_text(encoding="utf-8").replace("<main>", f"<main>{foreign}", 1)
    other = tmp_path / "report.html"
    other.write_text(html, encoding="utf-8")
    assert looked_at(other, 1200)["errors"] == ["inline", "inline"]  # what the policy refused


def test_it_is_dark_where_that_is_wanted(page):
    def light(colour):
        return sum(map(int, re.findall(r"\d+", colour)[:3])) > 3 * 128
    day, night = looked_at(page, 800), looked_at(page, 800, "--blink-settings=preferredColorScheme=0")
    assert [light(one[key]) for one in (day, night) for key in ("paper", "ink")] == [True, False, False, True]
