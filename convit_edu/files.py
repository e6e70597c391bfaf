"""Writing a file so that nobody ever finds half of it."""

import os
from pathlib import Path


def write_in_one_move(path: Path, content: bytes) -> None:
    """Write `content` to `path`, making its folder: whoever is killed on the way leaves the old file or the new.

    Raises OSError, as any writing does; then the old file is as it was, and no temporary one stays.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:
            pass  # no such folder, or a read-only one: the error on its way says it
