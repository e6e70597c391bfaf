"""A widget for a reader with a running kernel: attention of a trained model to a picture of the reader's own.

It needs ipywidgets and a front end such as JupyterLab or Colab. The explorers of `explorers` need no kernel.
"""

import io
import threading

import ipywidgets
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..data import Dataset, normalize
from ..model import ConViT
from ..pictures import read_picture
from ..train import progress_shown
from . import plots

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation that the official weights were trained on


def show(widget: ipywidgets.Widget) -> None:
    """Display a widget, unless CONVIT_EDU_PROGRESS=0 says that nobody watches: a stored output would be dead."""
    if progress_shown():
        from IPython.display import display

        display(widget)


# --- a picture of your own


def picture_tensor(content: bytes, model: ConViT, mean: Tensor, std: Tensor) -> tuple[np.ndarray, Tensor]:
    """An uploaded picture as the model wants it: the cropped picture (h, w) or (h, w, 3), and the input (1, C, h, w).

    ValueError if the bytes are no picture that can be read.
    """
    height, width = model.config["img_size"]
    try:
        picture = read_picture(bytes(content), "RGB" if model.config["in_chans"] == 3 else "L", "That file")
    except ValueError as error:
        raise ValueError(f"{error} Try a PNG or a JPEG.") from error
    picture = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
    shown = np.array(picture)
    pixels = torch.from_numpy(shown).reshape(height, width, -1).permute(2, 0, 1)  # (C, h, w)
    return shown, normalize(pixels[None], mean, std)


def uploaded_bytes(value) -> bytes:
    """The content of the file in a FileUpload's `value`: a dict by name in ipywidgets 7, a tuple in 8."""
    files = list(value.values() if isinstance(value, dict) else value)
    return bytes(files[0]["content"])


def attention_lab(model: ConViT, data: Dataset, picture: Tensor) -> ipywidgets.VBox:
    """Attention of any layer and head to a picture, first one of the embedded set, then one that the reader uploads.

    A button fetches the official ConViT-Ti weights, once, where there is a network; without one the given model stays.

    Args:
        model: a trained model, e.g. `records.checkpoint("convit")`, that was trained on `data`.
        data: its data set, for the normalisation.
        picture: the first picture, (1, C, h, w) uint8.
    """
    state = {"model": model, "mean": data.mean, "std": data.std}
    upload = ipywidgets.FileUpload(accept="image/*", multiple=False, description="your picture")
    fetch = ipywidgets.Button(description="fetch official ConViT-Ti (23 MB)", layout=ipywidgets.Layout(width="20em"))
    choices = layer, head, row, column = [
        ipywidgets.BoundedIntText(value=1, min=1, max=1, description=name, layout=ipywidgets.Layout(width="11em"))
        for name in ("layer", "head", "row", "column")
    ]
    canvas = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="40em"))
    said = ipywidgets.HTML()

    def tell(problem) -> None:
        said.value = f"{problem}"

    @torch.no_grad()
    def look(shown: np.ndarray, x: Tensor) -> None:
        model, trace = state["model"], {}
        model.eval()(x, trace)
        state["trace"] = None  # nothing is drawn while the controls change
        for control, top in zip(choices, (len(model.blocks), model.config["num_heads"], *model.grid)):
            control.max = top
        row.value, column.value = ((size + 1) // 2 for size in model.grid)
        state.update(shown=shown, trace=trace)
        draw()

    @torch.no_grad()
    def draw(_=None) -> None:
        if state["trace"] is None:
            return
        model, patches = state["model"], state["model"].grid[0] * state["model"].grid[1]
        query = (row.value - 1, column.value - 1)
        weights = model.attention_weights(state["trace"], layer.value - 1)[0, head.value - 1, -patches:, -patches:]
        found = weights[query[0] * model.grid[1] + query[1]].reshape(model.grid)
        place = f"layer {layer.value}, head {head.value}"
        figure = plots.maps([found], [place], query=query, picture=state["shown"], one_scale=False)
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=90)
        plots.plt.close(figure)
        canvas.value = content.getvalue()
        best = divmod(found.argmax().item(), model.grid[1])
        where = f"{place}, row {query[0] + 1}, column {query[1] + 1}"
        tell(f"{where}: most of it, {found.max():.3f}, on row {best[0] + 1}, column {best[1] + 1}")

    def uploaded(change) -> None:
        if not change["new"]:
            return
        try:
            look(*picture_tensor(uploaded_bytes(change["new"]), state["model"], state["mean"], state["std"]))
        except ValueError as error:
            tell(error)

    def fetched(_) -> None:
        fetch.disabled = True
        tell("Fetching; everything else goes on meanwhile ...")
        lab.fetching = threading.Thread(target=fetching, daemon=True)  # without a network it may take a minute to fail
        lab.fetching.start()

    def fetching() -> None:
        try:
            from .. import parity

            official = parity.from_timm("convit_tiny", pretrained=True)
        except Exception as error:  # whatever a network can do wrong
            tell(f"The weights could not be fetched ({type(error).__name__}); the model trained here stays.")
            fetch.disabled = False
            return
        mean, std = map(torch.tensor, IMAGENET)
        state.update(model=official, mean=mean, std=std, trace=None)
        tell("ConViT-Ti is in place: upload a picture.")
        if upload.value:
            uploaded({"new": upload.value})

    for control in choices:
        control.observe(draw, "value")
    upload.observe(uploaded, "value")
    fetch.on_click(fetched)
    boxes = ipywidgets.HBox(choices, layout=ipywidgets.Layout(flex_flow="row wrap"))
    lab = ipywidgets.VBox([ipywidgets.HBox([upload, fetch]), boxes, canvas, said])
    look(picture[0].permute(1, 2, 0).squeeze(-1).numpy(), data.normalize(picture))
    return lab
