"""A real browser without a window: shows a page in a frame as wide as a phone or a desk, and tells what it saw."""

import html
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

import matplotlib.image
import numpy as np
import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PHONE, DESK = 390, 1280

# Appended to the page. Everything is opened, so that what is hidden at first is looked at, too.
_PROBE = """
<script>
addEventListener("load", () => {
  document.querySelectorAll("details").forEach(details => { details.open = true; });
  const opaque = colour => !/, 0\\)$/.test(colour);
  const background = element => {
    const own = getComputedStyle(element).backgroundColor;
    return opaque(own) || !element.parentElement ? own : background(element.parentElement);
  };
  const hasText = element => [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
  const texts = [...document.body.querySelectorAll("*")].filter(e => e.tagName !== "SCRIPT" && hasText(e));
  const rectangle = ({x, y, width, height}) => [x, y, width, height];
  parent.postMessage({
    images: [...document.images].map(image => ({
      alt: image.alt, complete: image.complete, width: image.naturalWidth, at: rectangle(image.getBoundingClientRect()),
    })),
    width: document.documentElement.scrollWidth,
    window: innerWidth,
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
    colours: texts.map(element => [
      element.tagName.toLowerCase(), getComputedStyle(element).color, background(element),
    ]),
  }, "*");
});
</script>
"""
_FRAME = """<!doctype html>
<meta charset="utf-8"><meta name="color-scheme" content="light dark"><body style="margin: 0">
<iframe src="{page}" width="{width}" height="{height}" style="border: 0; display: block"></iframe>
<pre id="probe"></pre>
<script>addEventListener("message", event => {{ probe.textContent = JSON.stringify(event.data); }});</script>
"""
_HEIGHT = 1600


@dataclass(frozen=True)
class Seen:
    """What the page's probe found, and what the browser complained about."""

    probe: dict[str, Any]
    complaints: list[str]


def browser(folder):
    """The browser; without one the test is skipped, or fails where CI must not go without it."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        (pytest.fail if "CI" in os.environ else pytest.skip)(f"none of {', '.join(PROGRAMS)} is installed")
    return Browser(found, folder)


class Browser:
    """Keeps its files in a folder."""

    def __init__(self, program, folder):
        self._program, self._folder = program, folder

    def look(self, page, *, width=DESK, dark=False):
        """Opens a copy of an HTML file."""
        done = self._run(page, width, dark, "--dump-dom", "--virtual-time-budget=5000", "--enable-logging=stderr")
        probe = re.search(r'<pre id="probe">(.+?)</pre>', done.stdout)
        assert probe, f"the page did not load:\n{done.stderr}"
        complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line or "net::ERR" in line]
        return Seen(json.loads(html.unescape(probe[1])), complaints)

    def screenshot(self, page, *, width=DESK, dark=False):
        """The top of the page with everything opened, (height, width, 3) in [0, 255]."""
        path = self._folder / "screenshot.png"
        self._run(page, width, dark, f"--screenshot={path}", "--hide-scrollbars")
        return np.round(matplotlib.image.imread(path)[:, :, :3] * 255)

    def _run(self, page, width, dark, *options):
        probed, frame = self._folder / "probed.html", self._folder / "frame.html"
        probed.write_text(page.read_text(encoding="utf-8") + _PROBE, encoding="utf-8")
        # A window has a least width, above a phone's; a frame has none.
        frame.write_text(_FRAME.format(page=probed.name, width=width, height=_HEIGHT), encoding="utf-8")
        return subprocess.run(
            [
                self._program,
                *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
                f"--user-data-dir={self._folder / 'profile'}",
                f"--window-size={DESK},{_HEIGHT}",
                f"--blink-settings=preferredColorScheme={0 if dark else 1}",
                *options,
                frame.as_uri(),
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
