"""Opens a page in a headless Chromium as a reader would, and says what it saw.

The page lies in frames of the widths asked for, beside a script that measures them; nothing it names can be fetched,
and every attempt is counted.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
    "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
    "--window-size=1600,1200", "--virtual-time-budget=5000",
)  # fmt: skip
# Anything that is fetched is refused, and the refusal is an error on the console.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_MEASURE = """
addEventListener("load", () => {
  const seen = [...document.querySelectorAll("iframe")].map((frame) => {
    const page = frame.contentDocument, root = page.documentElement, width = frame.clientWidth;
    const look = (part) => frame.contentWindow.getComputedStyle(part);
    const painted = (part) => ["fill", "stroke"].some((key) => !["none", "rgba(0, 0, 0, 0)"].includes(look(part)[key]));
    const outside = (part) => part.getBoundingClientRect().right > width + 1 && !part.closest(".card");
    const charts = [...page.querySelectorAll("svg")].map((chart) => {
      const box = chart.getBoundingClientRect();
      const marks = [...chart.querySelectorAll("circle, polygon, polyline, rect, line, path")].filter(painted);
      return [box.width, box.height, marks.length, chart.querySelectorAll("text").length];
    });
    return {
      width, scroll: root.scrollWidth, height: root.scrollHeight, charts,
      wide: [...page.querySelectorAll("body *")].filter(outside).map((part) => part.outerHTML.slice(0, 80)),
      fetched: frame.contentWindow.performance.getEntriesByType("resource").map((entry) => entry.name),
      paper: look(page.body).backgroundColor, ink: look(page.body).color, title: page.title,
    };
  });
  document.body.setAttribute("data-seen", JSON.stringify(seen));
});
"""


@dataclass(frozen=True)
class Frame:
    """A page at one width. scroll: as far as it reaches to the right. charts: (width, height, painted marks, texts) of
    each. wide: what juts out of the page. fetched: what it tried to load. paper, ink: colours of page and text."""

    width: int
    scroll: int
    height: int
    charts: list[list[float]]
    wide: list[str]
    fetched: list[str]
    paper: str
    ink: str
    title: str


@dataclass(frozen=True)
class Seen:
    """frames: one for each width. console: what the browser complained of."""

    frames: list[Frame]
    console: list[str]


def browser() -> str | None:
    """The browser of this machine, if there is one."""
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


def look_at(page: Path, folder: Path, widths: tuple[int, ...] = (360, 1200), *, dark: bool = False) -> Seen:
    """Open a page at several widths. folder: for the browser's own files. Skips the test where no browser is."""
    program = browser()
    if program is None:
        pytest.skip("no browser is installed")
    guarded = page.read_text(encoding="utf-8").replace(
        "<head>", f'<head><meta http-equiv="Content-Security-Policy" content="{_POLICY}">', 1
    )
    held = "".join(
        f'<iframe width="{width}" height="900" frameborder="0" srcdoc="{html.escape(guarded)}"></iframe>'
        for width in widths
    )
    outer = folder / f"{page.stem}-frames.html"
    outer.write_text(f'<!doctype html><meta charset="utf-8"><body><script>{_MEASURE}</script>{held}', encoding="utf-8")
    words = [program, *_FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", outer.as_uri()]
    if dark:
        words.insert(1, "--blink-settings=preferredColorScheme=0")
    done = subprocess.run(words, capture_output=True, text=True, encoding="utf-8", timeout=120)
    found = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    frames = [Frame(**seen) for seen in json.loads(html.unescape(found[1]))]
    return Seen(frames, [line for line in done.stderr.splitlines() if "CONSOLE" in line])
