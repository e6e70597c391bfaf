"""Write the first picture of book/intro.ipynb to book/_static/gate.png, for README.md: `make notebooks` calls it."""

import base64
import json
from pathlib import Path

BOOK = Path(__file__).resolve().parents[1] / "book"
PICTURE = BOOK / "_static" / "gate.png"


def first_picture() -> bytes:
    cells = json.loads((BOOK / "intro.ipynb").read_text(encoding="utf-8"))["cells"]
    data = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    return base64.b64decode(next("".join(each["image/png"]) for each in data if "image/png" in each))


if __name__ == "__main__":
    PICTURE.write_bytes(first_picture())
