"""Attention at 4 or 8 bits a value: small enough for a page, and read by a few lines of JavaScript.

A row of attention, one query, becomes two bytes for its largest value and then its values as whole numbers from 0
to 2**bits - 1, as shares of the largest. So an error is at most half a step: a thirtieth of the row's largest value
at 4 bits. `static/explorers.js` unpacks the same bytes.
"""

import base64

import numpy as np

LARGEST = 65535  # in two bytes, low byte first
# RFC 1924's 85 signs without those that mean something in HTML (<, &) or look like a progress bar (%).
SIGNS = str.maketrans("<&%", ",.:")


def pack(values, bits: int = 4) -> np.ndarray:
    """Attention (..., N), each value in [0, 1], as bytes (..., 2 + ceil(N * bits / 8)), uint8.

    Packing what was unpacked gives the same bytes again. ValueError for other values or bits.
    """
    values = np.asarray(values, dtype=np.float64)
    if bits not in (4, 8):
        raise ValueError(f"Values are packed at 4 or 8 bits, not {bits}.")
    if values.ndim == 0 or values.size == 0 or not (values.min() >= 0 and values.max() <= 1 + 1e-6):
        raise ValueError("Attention to pack is an array of numbers from 0 to 1, and it is not empty.")
    # Rounded up, so that no value is above it; what float64 has lost on the way back does not count.
    top = np.ceil(values.max(-1, keepdims=True) * LARGEST - 1e-6).clip(1, LARGEST)  # (..., 1)
    steps = 2**bits - 1
    levels = np.rint(values / top * LARGEST * steps).clip(0, steps).astype(np.uint8)  # (..., N)
    if bits == 4:
        if levels.shape[-1] % 2:
            levels = np.concatenate((levels, np.zeros_like(levels[..., :1])), axis=-1)
        levels = levels[..., 0::2] | levels[..., 1::2] << 4
    top = top.astype(np.uint16)
    return np.concatenate(((top & 255).astype(np.uint8), (top >> 8).astype(np.uint8), levels), axis=-1)


def unpack(packed, tokens: int, bits: int = 4) -> np.ndarray:
    """The attention (..., tokens) in `packed`, float64. ValueError if its rows are not `tokens` long."""
    packed = np.asarray(packed, dtype=np.uint8)
    if bits not in (4, 8) or packed.shape[-1] != 2 + -(-tokens * bits // 8):
        raise ValueError(f"Packed rows of {packed.shape[-1]} bytes do not hold {tokens} values at {bits} bits.")
    top = (packed[..., :1] + 256.0 * packed[..., 1:2]) / LARGEST
    levels = packed[..., 2:]
    if bits == 4:
        levels = np.stack((levels & 15, levels >> 4), axis=-1).reshape(*levels.shape[:-1], -1)[..., :tokens]
    return top * levels / (2**bits - 1)


def as_text(packed) -> str:
    """Bytes as signs that may stand in HTML and in JSON, five for every four bytes; zeros fill up the last four."""
    content = np.asarray(packed, dtype=np.uint8).tobytes()
    return base64.b85encode(content, pad=True).decode().translate(SIGNS)
