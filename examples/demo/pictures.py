"""The pictures in docs/pictures: the terminal while `make demo` trains, then the pages, as Chromium shows them.

    make pictures           runs the demo first
    python -m examples.demo.pictures --pages     of the runs that lie in demo/runs

Every number in them is from runs of this machine.
"""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from html import escape

from examples.demo.browser import Browser
from examples.demo.walkthrough import FOLDER, PROJECT_DIR, RUN
from trainer.outcome import FAILED, FINISHED, ConfigError
from trainer.report.page import save_report
from trainer.report.runs import write_pages

PICTURES = PROJECT_DIR / "docs" / "pictures"
COLUMNS, ROWS = 108, 34
ELSEWHERE = "/home/you/trainyard"
SEEN = "step 120/200  held-out"
"""The line after which the terminal is drawn."""
# (file, page below demo/runs, width, dark, selector of the element that the picture begins with, height)
SHOTS = (
    ("report.png", f"{RUN}/report.html", 1280, False, "header", 1000),
    ("report-dark-narrow.png", f"{RUN}/report.html", 390, True, "header", 1300),
    ("answers.png", f"{RUN}/report.html", 1280, False, "section:has(.cards)", 640),
    ("runs.png", "index.html", 1280, False, "header", 560),
)
STYLE = (
    "text { font: 13px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace; fill: #e6e6e6; white-space: pre }"
)
CHARACTER_PX, LINE_PX, EDGE_PX = 7.83, 17, 14


def main(argv: Sequence[str]) -> int:
    if [*argv] not in ([], ["--pages"]):
        raise ConfigError("pictures takes nothing, or --pages: the terminal's picture stays")
    PICTURES.mkdir(parents=True, exist_ok=True)
    if not argv:
        (PICTURES / "terminal.svg").write_text(terminal_svg(watch_demo()), encoding="utf-8")
    if not (FOLDER / "runs" / RUN / "metrics.json").is_file():
        print(f"{FOLDER / 'runs' / RUN} is not finished: make demo", file=sys.stderr)
        return FAILED
    save_report(FOLDER / "runs" / RUN)
    write_pages(FOLDER / "runs")
    with Browser() as browser:
        for name, page, width, dark, first, height in SHOTS:
            browser.open(FOLDER / "runs" / page, width=width, dark=dark)
            top = browser.ask(f"Math.max(0, document.querySelector({first!r}).getBoundingClientRect().top - 20)")
            (PICTURES / name).write_bytes(smaller(browser.picture(top=top, height=height)))
            print(PICTURES / name)
    return FINISHED


def watch_demo() -> list[str]:
    """Runs the demo at a terminal of its own; returns the lines of that terminal after SEEN, or at its end."""
    import fcntl
    import struct
    import termios

    import pyte

    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    words = [sys.executable, "-m", "examples.demo"]
    environ = {**os.environ, "BROWSER": "none", "TERM": "xterm-256color"}
    demo = subprocess.Popen(words, cwd=PROJECT_DIR, stdin=slave, stdout=slave, stderr=slave, env=environ)
    os.close(slave)
    found: list[str] = []
    try:
        while data := os.read(master, 1 << 16):
            os.write(1, data)
            stream.feed(data)
            if not found and any(SEEN in line for line in screen.display) and "step 12" in screen.display[-1]:
                found = list(screen.display)
    except OSError:  # nobody has the other side open any more
        pass
    if demo.wait():
        raise ConfigError(f"the demo ended with {demo.returncode}: what stands above says why")
    return found or list(screen.display)


def terminal_svg(lines: Sequence[str]) -> str:
    """A terminal's lines as a picture."""
    width, height = round(COLUMNS * CHARACTER_PX + 2 * EDGE_PX), len(lines) * LINE_PX + 2 * EDGE_PX
    texts = [
        f'<text x="{EDGE_PX}" y="{EDGE_PX + LINE_PX * place + 13}" xml:space="preserve">{escape(line.rstrip())}</text>'
        for place, line in enumerate(line.replace(str(PROJECT_DIR), ELSEWHERE) for line in lines)
        if line.strip()
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">\n'
        f'<style>{STYLE}</style>\n<rect width="{width}" height="{height}" rx="8" fill="#16191d"/>\n'
        + "\n".join(texts)
        + "\n</svg>\n"
    )


def smaller(png: bytes) -> bytes:
    """The picture in 256 colours: a page has hardly more, and a repository keeps every byte for ever."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, "png", optimize=True)
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
