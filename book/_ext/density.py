"""A picture stands in the page as large as it says itself, not a pixel of it on a pixel of the screen.

Cells store heat maps as PNG at twice the density (convit_edu/book/plots.py). JupyterLab shows them at half their
pixels, and so does the site: a PNG with a density gets a width of 96 pixels an inch. None is wider than the text.
"""

from pathlib import Path

from docutils import nodes
from PIL import Image


def width(path: Path) -> str | None:
    """What a file says of its width, or None."""
    if path.suffix != ".png" or not path.is_file():
        return None
    with Image.open(path) as picture:
        density = picture.info.get("dpi")
        return f"{round(96 * picture.width / density[0])}px" if density else None


def give_widths(app, doctree, _page) -> None:
    if app.builder.format != "html":
        return
    for image in doctree.findall(nodes.image):
        if "width" not in image and (found := width(Path(app.srcdir, image["uri"]))):
            image["width"] = found


def setup(app) -> dict:
    app.connect("doctree-resolved", give_widths)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
