"""Checks for the exercises: each takes the reader's own function or tensor and says in words what is wrong.

A check prints "Correct." or "Not yet: ..." and never stops the notebook. One module for each chapter, and here every
`check_...` of all of them.
"""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    _found = vars(import_module(f"{__name__}.{_module.name}"))
    globals().update({name: check for name, check in _found.items() if name.startswith("check_")})
