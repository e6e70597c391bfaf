"""Still pictures as text, without a drawing library: what an explorer shows where no script runs, and in print.

The same numbers give the same bytes on every machine, so that a notebook which shows them compares equal.
"""

import base64
import html
import zlib
from collections.abc import Sequence

import numpy as np

# Every twentieth of viridis, the colour map of `plots`.
VIRIDIS = (
    "440154 471365 482475 463480 414487 3b528b 355f8d 2f6c8e 2a788e 25848e 21918c "
    "1e9c89 22a884 2fb47c 44bf70 5ec962 7ad151 9bd93c bddf26 dfe318 fde725"
).split()


def array(values) -> np.ndarray:
    """float64, from a tensor, a list or an array."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=np.float64)


def _colours(shares: np.ndarray) -> np.ndarray:
    """viridis of numbers from 0 to 1: (h, w, 3), uint8."""
    stops = np.array([[int(stop[at : at + 2], 16) for at in (0, 2, 4)] for stop in VIRIDIS])
    channels = [np.interp(shares, np.linspace(0, 1, len(stops)), stops[:, c]) for c in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def png(pixels) -> str:
    """A small picture, grey (h, w) or colour (h, w, 3), 0 to 255, as a data address. ValueError for others.

    It is not compressed: every zlib compresses a little differently.
    """
    pixels = array(pixels)
    fits = pixels.ndim in (2, 3) and pixels.size and pixels.size + len(pixels) < 2**16  # bytes of one block of zlib's
    if not fits or not (pixels.min() >= 0 and pixels.max() <= 255):
        raise ValueError(f"A picture has shape (h, w) or (h, w, 3) and values from 0 to 255, not {pixels.shape}.")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(np.uint8))  # each begins with its filter: none
    size = len(rows).to_bytes(2, "little")
    stored = b"\x78\x01\x01" + size + bytes(255 - byte for byte in size) + rows + zlib.adler32(rows).to_bytes(4, "big")

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    high, wide = (side.to_bytes(4, "big") for side in pixels.shape[:2])
    head = wide + high + bytes([8, 0 if pixels.ndim == 2 else 2, 0, 0, 0])
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", stored) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(content).decode()


def svg(width: float, height: float, content: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" font-family="sans-serif" font-size="11">{content}</svg>'
    )


def maps(panels: Sequence[tuple[str, np.ndarray, int]], top: float, picture=None) -> str:
    """Heat maps (title, values, query) side by side on one scale from 0 to `top`, the picture before them."""
    side, gap, columns = 130, 14, 4
    places = []
    if picture is not None:
        places.append(("image and query", png(picture), panels[0][1].shape, panels[0][2], "#E69F00"))
    places += [(title, png(_colours(values / top)), values.shape, query, "#FFF") for title, values, query in panels]
    content = []
    for number, (title, address, (rows, wide), query, ink) in enumerate(places):
        x, y = number % columns * (side + gap), number // columns * (side + 28) + 16
        cell, (row, column) = side / max(rows, wide), divmod(query, wide)
        content.append(
            f'<text x="{x}" y="{y - 4}">{html.escape(title)}</text>'
            f'<image href="{address}" x="{x}" y="{y}" width="{cell * wide:g}" height="{cell * rows:g}" '
            'preserveAspectRatio="none" style="image-rendering:pixelated"/>'
            f'<rect x="{x + cell * column:.2f}" y="{y + cell * row:.2f}" width="{cell:.2f}" height="{cell:.2f}" '
            f'fill="none" stroke="{ink}" stroke-width="2"/>'
        )
    bottom = (len(places) - 1) // columns * (side + 28) + side + 30
    stops = "".join(f'<stop offset="{5 * k}%" stop-color="#{stop}"/>' for k, stop in enumerate(VIRIDIS))
    content.append(
        f'<linearGradient id="v">{stops}</linearGradient>'
        f'<rect x="14" y="{bottom}" width="130" height="10" fill="url(#v)"/>'
        f'<text x="0" y="{bottom + 9}">0</text><text x="150" y="{bottom + 9}">{top:.2f} of the attention</text>'
    )
    return svg(min(len(places), columns) * (side + gap) - gap, bottom + 16, "".join(content))
