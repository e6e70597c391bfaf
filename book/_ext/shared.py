"""What several pages need alike stands in one file for the site: the networks that explorers compute, and pictures.

A notebook that is read elsewhere carries them in its outputs, as `<script data-shared="name">`. In the built pages each
becomes `<script src>` of a file in _static; its name has a hash, so that pages made from different networks keep their
own. The moments of training, which no notebook carries, are written where a page asks for them.
"""

import hashlib
import re
from functools import lru_cache
from pathlib import Path

SHARED = re.compile(r'<script data-shared="(\w+)">(.*?)</script>', re.S)
MOMENTS = 'data-moments=""'


def written(folder: Path, name: str, text: str) -> str:
    """The name of the file in `folder` that holds this script."""
    file = folder / f"explorer-{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.js"
    folder.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        file.write_text(text, encoding="utf-8")
    return file.name


@lru_cache(maxsize=1)
def moments() -> str:
    from convit_edu.book import networks

    return networks.script("moments", networks.moments())


def shared(body: str, folder: Path, static: str) -> str:
    """The body of a page whose shared scripts stand in `folder`, which the page calls `static`."""
    body = SHARED.sub(lambda found: f'<script src="{static}/{written(folder, *found.groups())}"></script>', body)
    if MOMENTS in body:
        body = body.replace(MOMENTS, f'data-moments="{static}/{written(folder, "moments", moments())}"')
    return body


def share(app, pagename, templatename, context, doctree) -> None:
    if "data-shared=" in context.get("body", ""):
        static = context["pathto"]("_static", resource=True)
        context["body"] = shared(context["body"], Path(app.outdir, "_static"), static)


def setup(app) -> dict[str, bool]:
    app.connect("html-page-context", share)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
