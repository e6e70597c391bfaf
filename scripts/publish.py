"""The built book as one zip that opens from a file, or printed to PDF: what `make site` and `make pdf` call.

    python scripts/publish.py zip    # dist/convit-book.zip; equal pages give an equal file
    python scripts/publish.py pdf    # dist/convit-book.pdf, printed by Chromium; its links lead from page to page
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml

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


def order(toc: Path) -> list[str]:
    """The pages as the table of contents lists them, such as book/intro."""
    table = yaml.safe_load(toc.read_text(encoding="utf-8"))
    return [table["root"], *(chapter["file"] for part in table["parts"] for chapter in part["chapters"])]


def print_page(page: Path, file: Path, chromium: str) -> None:
    """As the theme lays it out for paper: explorers give way to still figures, solutions are open."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000"]
    command = [chromium, *options, "--no-pdf-header-footer", f"--print-to-pdf={file}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode or not file.is_file():
        sys.exit(f"Chromium could not print {page.name}: {done.stderr.strip()[-200:]}")


def bind(printed: dict[Path, Path], target: Path) -> int:
    """One PDF from {page of the site: its PDF}, with an outline; returns its pages.

    A link from one page of the site to another leads to where that page begins here. A link to a file of the site that
    is not printed would name a folder of this machine, and is taken out.
    """
    from pypdf import PdfReader, PdfWriter
    from pypdf.generic import ArrayObject, DictionaryObject, NameObject

    writer, begins = PdfWriter(), {}
    for page, file in printed.items():
        reader = PdfReader(file)
        begins[page.resolve()] = len(writer.pages)
        for sheet in reader.pages:
            writer.add_page(sheet)
        title = (reader.metadata and reader.metadata.title) or page.stem
        writer.add_outline_item(title=title.split(" \N{EM DASH} ")[0], page_number=begins[page.resolve()])
    for sheet in writer.pages:
        kept = ArrayObject()
        for reference in sheet.get("/Annots", ArrayObject()):
            action = reference.get_object().get("/A", {})
            address = urlsplit(str(action.get("/URI", "")))
            place = Path(unquote(address.path)).resolve() if address.scheme == "file" else None
            if place in begins:
                begin = writer.pages[begins[place]].indirect_reference
                there = ArrayObject([begin, NameObject("/Fit")])
                goto = DictionaryObject({NameObject("/S"): NameObject("/GoTo"), NameObject("/D"): there})
                reference.get_object()[NameObject("/A")] = goto
            if place is None or place in begins:
                kept.append(reference)
        if "/Annots" in sheet:
            sheet[NameObject("/Annots")] = kept
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    writer.write(partial)
    partial.replace(target)
    return len(writer.pages)


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
        chromium, printed = find_chromium(), {}
        with tempfile.TemporaryDirectory() as folder:
            for number, name in enumerate(order(ROOT / "_toc.yml")):
                page = SITE / f"{name}.html"
                printed[page] = Path(folder, f"{number}.pdf")
                print_page(page, printed[page], chromium)
            pages = bind(printed, DIST / f"{NAME}.pdf")
        print(f"{DIST / NAME}.pdf, {pages} pages, {(DIST / f'{NAME}.pdf').stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
