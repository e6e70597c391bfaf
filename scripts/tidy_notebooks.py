"""Tidy the stored outputs of notebooks: lighter pictures, and printed lines in one piece. `make notebooks` calls it.

A busy machine cuts what a cell prints into pieces, at places that differ from run to run: they are joined.
A PNG becomes one of at most 256 colours if no areas change by more than `SLIGHT`, and hardly a pixel by more than
`SEEN`: those are the soft edges of letters. Heat maps are read by their colours, and their patches are areas.

    python scripts/tidy_notebooks.py book/*.ipynb
"""

import base64
import io
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

SLIGHT, SEEN = 3, 12  # largest change of a channel, of 255
AREAS, EDGES = 0.02, 0.002  # shares of the pixels that may change by more


def lighter(content: bytes) -> bytes:
    """The same picture in fewer bytes, or the bytes as they are."""
    picture = Image.open(io.BytesIO(content))
    if picture.mode == "P":
        return content
    plain = picture.convert("RGB")
    if picture.mode == "RGBA" and np.asarray(picture)[..., 3].min() < 255:
        return content  # shows what lies behind it
    few = plain.quantize(256, Image.Quantize.MEDIANCUT, kmeans=3, dither=Image.Dither.NONE)
    moved = np.abs(np.asarray(few.convert("RGB"), dtype=int) - np.asarray(plain, dtype=int)).max(2)  # (h, w)
    if (moved > SLIGHT).mean() > AREAS or (moved > SEEN).mean() > EDGES:
        return content
    written = io.BytesIO()
    few.save(written, "PNG", optimize=True)
    return min(content, written.getvalue(), key=len)


def joined(outputs: list[dict]) -> list[dict]:
    """The same outputs, those to one stream that follow each other being one."""
    found: list[dict] = []
    for output in outputs:
        if found and output["output_type"] == "stream" and output.get("name") == found[-1].get("name"):
            text = "".join(found[-1]["text"]) + "".join(output["text"])
            found[-1] = found[-1] | {"text": text.splitlines(keepends=True)}
        else:
            found.append(output)
    return found


def main(paths: list[str]) -> None:
    for path in map(Path, paths):
        before = path.read_text(encoding="utf-8")
        notebook = json.loads(before)
        for cell in notebook["cells"]:
            if "outputs" in cell:
                cell["outputs"] = joined(cell["outputs"])
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
