"""Links from what a cell shows as HTML to chapters: a notebook says `01-images.ipynb`, the site `01-images.html`.

In Markdown the build resolves such links by itself; HTML it takes as it is. A chapter that is not there is a warning.
"""

import re

from sphinx.util import logging

LINK = re.compile(r'(<a href=")([\w-]+)\.ipynb(?=["#])')
log = logging.getLogger(__name__)


def resolve(app, pagename, templatename, context, doctree) -> None:
    folder = pagename.rpartition("/")[0]

    def page(link: re.Match) -> str:
        target = f"{folder}/{link[2]}".lstrip("/")
        if target not in app.env.found_docs:
            log.warning("no page %s", target, location=pagename)
        return link[1] + context["pathto"](target)

    if "body" in context:
        context["body"] = LINK.sub(page, context["body"])


def setup(app) -> dict[str, bool]:
    app.connect("html-page-context", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
