"""What publishes the book: the zip, the printing, and the workflow."""

import re
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from loading import ROOT, module_at


@pytest.fixture(scope="module")
def publish():
    return module_at("scripts/publish.py")


def site(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"<title>{name}</title>", encoding="utf-8")
    return folder


def test_zip_holds_the_site_and_is_equal_for_equal_pages(publish, tmp_path):
    names = ["index.html", "book/b.html", "book/a.html", "_static/a.css"]
    sizes = [
        publish.pack(site(tmp_path / which, order), tmp_path / f"{which}.zip")
        for which, order in (("one", names), ("two", names[::-1]))
    ]
    one, two = ((tmp_path / f"{which}.zip").read_bytes() for which in ("one", "two"))
    assert one == two and sizes == [len(one)] * 2
    with zipfile.ZipFile(tmp_path / "one.zip") as packed:
        assert packed.namelist() == sorted(f"convit-book/{name}" for name in names)
        assert packed.read("convit-book/book/a.html") == b"<title>book/a.html</title>"
    assert not list(tmp_path.glob("*.partial"))


def test_one_pdf_in_the_order_of_the_contents_whose_links_stay_inside(publish, tmp_path):
    from pypdf import PdfReader, PdfWriter
    from pypdf.annotations import Link

    printed = {}
    for name, links in {"b": ["a.html#here", "https://example.org/"], "a": ["LICENSE"]}.items():
        writer, page = PdfWriter(), tmp_path / f"{name}.html"
        for _ in range(2):
            writer.add_blank_page(100, 100)
        for link in links:
            url = link if link.startswith("https:") else f"{tmp_path.as_uri()}/{link}"
            writer.add_annotation(0, Link(rect=(0, 0, 9, 9), url=url))
        writer.add_metadata({"/Title": f"Page {name} \N{EM DASH} the book"})
        printed[page] = tmp_path / f"{name}.pdf"
        writer.write(printed[page])
    assert publish.bind(printed, tmp_path / "out" / "book.pdf") == 4
    book = PdfReader(tmp_path / "out" / "book.pdf")
    outline = [(one.title, book.get_destination_page_number(one)) for one in book.outline]
    assert outline == [("Page b", 0), ("Page a", 2)]
    inner, outer = (one.get_object()["/A"] for one in book.pages[0]["/Annots"])
    assert inner["/S"] == "/GoTo" and inner["/D"][0] == book.pages[2].indirect_reference
    assert outer["/URI"] == "https://example.org/"
    assert list(book.pages[2]["/Annots"]) == []  # a file of the site that is no page of the book
    assert tmp_path.as_posix().encode() not in (tmp_path / "out" / "book.pdf").read_bytes()


def test_the_book_is_printed_in_the_order_of_its_contents(publish):
    pages = publish.order(ROOT / "_toc.yml")
    assert pages[:4] == [f"book/{name}" for name in ("intro", "tour", "run-it", "01-images-are-local")]
    assert len(pages) == len(set(pages)) > 15


def test_without_chromium_printing_says_what_to_do(publish, monkeypatch):
    monkeypatch.setattr(publish.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="there is no Chromium to print with: install it"):
        publish.find_chromium()


def test_without_a_book_both_say_so(publish, tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "SITE", tmp_path)
    for form in ("zip", "pdf"):
        monkeypatch.setattr(sys, "argv", ["publish.py", form])
        with pytest.raises(SystemExit, match="there is no built book in _build/html: run make book"):
            publish.main()


WORKFLOWS = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
             for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))}  # fmt: skip


def commands(job) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_workflow_publishes_only_what_passed():
    workflow = WORKFLOWS["book"]
    build, publishing = workflow["jobs"]["build"], workflow["jobs"]["publish"]
    assert commands(build) == ["make lint", "make test", "make book", "make check"]
    assert publishing["needs"] == "build" and "default_branch" in publishing["if"]
    assert workflow["permissions"] == {"contents": "read"}
    assert set(publishing["permissions"]) == {"contents", "pages", "id-token"}
    assert "CONVIT_EDU_REPOSITORY" in workflow["env"]
    # The page, its notebooks and the package that they install are one commit.
    assert workflow["env"]["CONVIT_EDU_REVISION"] == "${{ github.sha }}"
    assert {step.get("with", {}).get("name") for step in publishing["steps"]} >= {"github-pages"}  # what was built
    assert "cp _sources/book/*.ipynb book/" in "\n".join(commands(publishing))


def test_workflows_call_what_there_is():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    called = [line for one in WORKFLOWS.values() for job in one["jobs"].values() for line in commands(job)]
    targets = {target for line in called for target in re.findall(r"^make (\w+)", line, re.M)}
    assert {"lint", "test", "book", "check", "links"} <= targets
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)
    assert all((ROOT / name).is_file() for line in called for name in re.findall(r"\b(?:scripts|book)/\S+\.py\b", line))
