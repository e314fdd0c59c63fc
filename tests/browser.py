"""Pages in a real browser without a screen: what of them overflows, overlaps, is pale or out of sight."""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from html import escape, unescape
from pathlib import Path
from typing import Any

CALLED = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SCRIPT = Path(__file__).with_name("page_measures.js")
TALL = 30000  # pixels of a frame, so that nothing lies below it


def browser() -> str | None:
    """Return the program of a browser that can be driven; None where there is none."""
    return next((found for name in CALLED if (found := shutil.which(name))), None)


def measure(pages: Mapping[str, str], folder: Path, *, widths: tuple[int, ...] = (1280, 390)) -> dict[str, Any]:
    """Open pages at every width, light and dark, each as it opens and with everything unfolded.

    The pages themselves run nothing: they stand in frames, and the page around them measures.

    Args:
        pages: HTML by name.
        folder: for the page around them.
        widths: in pixels.

    Returns:
        By "name width scheme", then "closed" and "open": how many lines of text were seen, and what is wrong.
    """
    frames = [
        f'<iframe title="{escape(name)} {width} {scheme}" srcdoc="{escape(page)}" '
        f'style="width:{width}px;height:{TALL}px;border:0;color-scheme:{scheme}"></iframe>'
        for name, page in pages.items()
        for width in widths
        for scheme in ("light", "dark")
    ]
    around = folder / "around.html"
    around.write_text(f"<script>{SCRIPT.read_text()}</script>{''.join(frames)}")
    program = browser()
    assert program is not None
    done = subprocess.run(
        [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
         f"--user-data-dir={folder / 'profile'}", "--dump-dom", around.as_uri()],
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    (body,) = re.findall(r"<body>(.*)</body>", done.stdout, re.DOTALL)
    found: dict[str, Any] = json.loads(unescape(body))
    return found
