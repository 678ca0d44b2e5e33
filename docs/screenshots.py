"""Pictures of the demo's pages, for README.md and docs/report.md, in the system's Chromium.

    python docs/screenshots.py examples/flights      # after `make demo`

Writes report-light.png (how the report begins), report-dark.png (drift), report-phone.png and year.png beside this script.
"""

import argparse
import shutil
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, sync_playwright

HERE = Path(__file__).parent
NAMES = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    """What the shell calls."""
    parser = argparse.ArgumentParser(description="Writes the pictures of README.md and docs/report.md.")
    parser.add_argument("folder", type=Path, help="where report.html and year.html are")
    folder = parser.parse_args().folder.resolve()
    page = folder / "report.html"
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        raise SystemExit(f"no browser was found: {', '.join(NAMES)}")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        picture(browser, page, "light", begin="body", size=(1200, 1560))
        picture(browser, page, "dark", begin="section:has(.heat)", size=(1200, 1560))
        picture(browser, page, "light", begin="body", size=(375, 1250), name="report-phone", scale=2)
        picture(browser, folder / "year.html", "light", begin="figure", size=(1000, 520), name="year")
        browser.close()


def picture(
    browser: Browser,
    page: Path,
    scheme: Literal["light", "dark"],
    *,
    begin: str,
    size: tuple[int, int],
    name: str = "",
    scale: int = 1,
) -> None:
    """A part of the page, from the top of the element `begin`; `size` in pixels of the page."""
    width, height = size
    shown = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme, device_scale_factor=scale)
    shown.goto(page.as_uri())
    top = shown.locator(begin).first.evaluate("each => each.getBoundingClientRect().top")
    clip = {"x": 0, "y": top, "width": width, "height": height}
    shown.screenshot(path=HERE / f"{name or f'report-{scheme}'}.png", full_page=True, clip=clip)
    shown.close()


if __name__ == "__main__":
    main()
