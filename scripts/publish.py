"""The built book as one zip that opens from a file, or printed to PDF: what `make site` and `make pdf` call.

    python scripts/publish.py zip    # dist/convit-book.zip; equal pages give an equal file
    python scripts/publish.py pdf    # dist/pdf/*.pdf, one for each page, printed by Chromium
"""

import argparse
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SITE, DIST = ROOT / "_build" / "html", ROOT / "dist"
NAME = "convit-book"


def pack(site: Path, target: Path) -> int:
    """Write every file of `site` into one zip, in order and with one date; returns its bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for path in sorted(path for path in site.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(f"{NAME}/{path.relative_to(site).as_posix()}")  # its date is 1980-01-01
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            packed.writestr(entry, path.read_bytes())
    partial.replace(target)
    return target.stat().st_size


def find_chromium() -> str:
    names = [os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome"]
    found = next((place for place in map(shutil.which, filter(None, names)) if place), None)
    if found is None:
        sys.exit("there is no Chromium to print with: install it (Debian: apt install chromium) or set CHROMIUM to it")
    return found


def print_pages(site: Path, target: Path, chromium: str) -> list[Path]:
    """Print each page as the theme lays it out for paper: explorers give way to still figures, solutions are open."""
    target.mkdir(parents=True, exist_ok=True)
    printed = []
    for page in sorted((site / "book").glob("*.html")):
        file = target / f"{page.stem}.pdf"
        file.unlink(missing_ok=True)
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000"]
        command = [chromium, *options, "--no-pdf-header-footer", f"--print-to-pdf={file}", page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode or not file.is_file():
            sys.exit(f"Chromium could not print {page.name}: {done.stderr.strip()[-200:]}")
        printed.append(file)
    return printed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("form", choices=["zip", "pdf"])
    form = parser.parse_args().form
    if not (SITE / "index.html").is_file():
        sys.exit("there is no built book in _build/html: run make book first")
    if form == "zip":
        size = pack(SITE, DIST / f"{NAME}.zip")
        print(f"{DIST / NAME}.zip, {size / 1e6:.1f} MB: unpack it and open {NAME}/index.html")
    else:
        printed = print_pages(SITE, DIST / "pdf", find_chromium())
        size = sum(file.stat().st_size for file in printed)
        print(f"{len(printed)} files in {DIST / 'pdf'}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
