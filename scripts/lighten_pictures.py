"""Make the pictures in the notebooks smaller where that cannot be seen: `make notebooks` calls it.

A PNG becomes one of at most 256 colours if no pixel's channel moves by more than LEAST; heat maps, which are read by
their colours, stay as they are for that reason.

    python scripts/lighten_pictures.py book/*.ipynb
"""

import base64
import io
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

LEAST = 12  # of 255


def lighter(content: bytes) -> bytes:
    """The same picture in fewer bytes, or the bytes as they are."""
    picture = Image.open(io.BytesIO(content))
    if picture.mode == "P":
        return content
    plain = picture.convert("RGB")
    if picture.mode == "RGBA" and np.asarray(picture)[..., 3].min() < 255:
        return content  # shows what lies behind it
    few = plain.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    moved = np.abs(np.asarray(few.convert("RGB"), dtype=int) - np.asarray(plain, dtype=int)).max()
    if moved > LEAST:
        return content
    written = io.BytesIO()
    few.save(written, "PNG", optimize=True)
    return min(content, written.getvalue(), key=len)


def main(paths: list[str]) -> None:
    for path in map(Path, paths):
        before = path.read_text(encoding="utf-8")
        notebook = json.loads(before)
        for cell in notebook["cells"]:
            for output in cell.get("outputs", []):
                picture = output.get("data", {}).get("image/png")
                if picture:
                    content = base64.b64decode("".join(picture))
                    output["data"]["image/png"] = base64.b64encode(lighter(content)).decode()
        after = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"{path}: {len(before):,} -> {len(after):,} characters")


if __name__ == "__main__":
    main(sys.argv[1:])
