"""Drawings stand in the page itself, not in a frame: so they take the page's colours, in light and in dark.

An image that comes from a folder `drawings` becomes the SVG that it is. Elsewhere (JupyterLab, GitHub, a download) the
same file is a picture on a white ground of its own. `custom.css` takes that ground away and knows the two accents.
"""

from pathlib import Path

from docutils import nodes


def inline(app, doctree, _page) -> None:
    if app.builder.format != "html":
        return
    for image in list(doctree.findall(nodes.image)):
        path = Path(app.srcdir, image["uri"])
        if path.suffix == ".svg" and path.parent.name == "drawings":
            svg = path.read_text(encoding="utf-8")
            box = "span" if isinstance(image.parent, nodes.paragraph) else "div"  # in a table it stands in a line
            image.replace_self(nodes.raw("", f'<{box} class="drawing">\n{svg}</{box}>', format="html"))


def setup(app) -> dict:
    app.connect("doctree-resolved", inline)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
