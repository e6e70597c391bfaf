"""The page of the package: book/api.md gets every public class and function, as its docstring describes it.

What is listed follows from the package: all modules but private ones, and of each what it defines itself, in `__all__`
where a module has one. The docstrings are plain text with `code` between single backquotes; here they become
reStructuredText, in which a star or a bar would otherwise have a meaning.
"""

import importlib
import inspect
import pkgutil
import re
from types import ModuleType

PAGE, PLACE = "book/api", "<!-- the modules -->"
ROOMS = {  # in the order in which a reader meets them
    "convit_edu": "The core: what chapters 02 to 06 and 12 teach",
    "convit_edu.beyond": "Beyond the paper's core: chapters 10 and 11",
    "convit_edu.imagenet": "The paper's recipe on ImageNet",
    "convit_edu.lab": "The laboratory: experiments and their records",
    "convit_edu.book": "What the pages show",
}


def modules(root: str) -> list[ModuleType]:
    """A package and the public modules that lie directly in it."""
    package = importlib.import_module(root)
    names = [found.name for found in pkgutil.iter_modules(package.__path__) if not found.ispkg]
    return [package, *(importlib.import_module(f"{root}.{name}") for name in names if not name.startswith("_"))]


def members(module: ModuleType) -> list[str]:
    """What a module defines itself and explains."""
    named = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    found = [(name, getattr(module, name)) for name in named]
    own = [(name, thing) for name, thing in found if getattr(thing, "__module__", "") == module.__name__]
    return [name for name, thing in own if (inspect.isclass(thing) or inspect.isfunction(thing)) and thing.__doc__]


def markdown() -> str:
    """The page's sections: a room, its modules, their members."""
    lines = []
    for root, title in ROOMS.items():
        lines += [f"## {title}", ""]
        for module in modules(root):
            names = members(module)
            if not names:
                continue
            lines += [f"### `{module.__name__}`", "", "```{eval-rst}", f".. automodule:: {module.__name__}", ""]
            for name in names:
                thing = getattr(module, name)
                if inspect.isclass(thing):
                    # An attribute that is a class, such as ConViT.local_layer, would be explained a second time.
                    classes = ", ".join(key for key, value in vars(thing).items() if inspect.isclass(value))
                    lines += [f".. autoclass:: {module.__name__}.{name}", "   :members:"]
                    lines += [f"   :exclude-members: {classes}", ""] if classes else [""]
                else:
                    lines += [f".. autofunction:: {module.__name__}.{name}", ""]
            lines += ["```", ""]
    return "\n".join(lines)


def fill(app, docname: str, source: list[str]) -> None:
    if docname == PAGE:
        source[0] = source[0].replace(PLACE, markdown())


def as_restructured_text(app, what, name, thing, options, lines: list[str]) -> None:
    """`code` in double backquotes, everything else without special characters."""
    for i, line in enumerate(lines):
        parts = re.split(r"(``[^`]*``|`[^`]*`)", line)
        parts[::2] = [re.sub(r"([\\*|]|_(?=\W|$))", r"\\\1", part) for part in parts[::2]]
        parts[1::2] = [f"``{part.strip('`')}``" for part in parts[1::2]]
        lines[i] = "".join(parts)


def setup(app) -> dict[str, bool]:
    app.connect("source-read", fill)
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)  # before napoleon, which adds markup
    return {"parallel_read_safe": True, "parallel_write_safe": True}
