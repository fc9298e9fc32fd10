"""`python -m tests.report_picture RUN_FOLDER OUT.png` writes a run's page and takes the picture of it that the README shows."""

import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import ViewportSize

from ray_s2v.reporting.report.page import write_report
from tests.browser import chromium

SIZE = ViewportSize(width=1280, height=1840)
SETTLED_MS = 2500  # until the players' spinners are gone


def take(page: Path, out: Path) -> None:
    with chromium() as browser:
        tab = browser.new_page(viewport=SIZE)
        tab.goto(page.as_uri())
        tab.wait_for_timeout(SETTLED_MS)
        tab.screenshot(path=out)
    Image.open(out).convert("RGB").quantize(256).save(out, optimize=True)


if __name__ == "__main__":
    take(write_report(Path(sys.argv[1])), Path(sys.argv[2]))
