"""The widget for a live kernel: what it shows of a picture, what it refuses, and what it does without a network."""

import io
import threading
from datetime import datetime

import numpy as np
import pytest
import torch
from PIL import Image

from convit_edu import create_model, data, parity
from convit_edu.book import widgets
from convit_edu.lab import records


@pytest.fixture(scope="module")
def fashion():
    return data.load("fashion_mnist_5k")


@pytest.fixture(scope="module")
def trained():
    return records.checkpoint("convit")


def png(size=(40, 30), mode="RGB"):
    content, pixels = io.BytesIO(), np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(content, "PNG")
    return content.getvalue()


def uploaded(lab, content):
    file = {"name": "p", "type": "", "size": len(content), "content": content, "last_modified": datetime(2026, 1, 1)}
    upload = lab.children[0].children[0]
    upload.set_trait("value", {"p": file} if isinstance(upload.value, dict) else (file,))  # ipywidgets 7, and 8


def test_a_widget_is_displayed_only_where_somebody_watches(monkeypatch, capsys):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    monkeypatch.setenv("CONVIT_EDU_PROGRESS", "0")
    widgets.show("a widget")
    assert shown == []
    monkeypatch.delenv("CONVIT_EDU_PROGRESS")
    widgets.show("a widget")
    assert shown == ["a widget"]


# --- pictures


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_a_picture_of_any_kind_becomes_the_models_input(trained, fashion, mode):
    shown, x = widgets.picture_tensor(png((50, 20), mode), trained, fashion.mean, fashion.std)
    assert shown.shape == (28, 28) and x.shape == (1, 1, 28, 28)
    assert torch.allclose(x, fashion.normalize(torch.from_numpy(shown.copy())[None, None]))


@pytest.mark.parametrize("content", [b"", b"not a picture", png()[:100]])
def test_what_is_no_picture_is_refused_in_one_sentence(trained, fashion, content):
    with pytest.raises(ValueError, match=r"no picture that can be read: .*Try a PNG or a JPEG"):
        widgets.picture_tensor(content, trained, fashion.mean, fashion.std)


def test_the_attention_lab_shows_the_models_attention_to_an_uploaded_picture(trained, fashion):
    lab = widgets.attention_lab(trained, fashion, fashion.test_images[:1])
    canvas, said = lab.children[2:]
    first = bytes(canvas.value)
    assert first.startswith(b"\x89PNG")
    uploaded(lab, content := png())
    assert bytes(canvas.value) != first
    layer, head, row, column = lab.children[1].children
    layer.value, head.value, row.value, column.value = 2, 5, 1, 7
    _, x = widgets.picture_tensor(content, trained, fashion.mean, fashion.std)
    trace = {}
    with torch.no_grad():
        trained(x, trace)
    largest = trained.attention_weights(trace, 1)[0, 4, -49:, -49:][6].max().item()
    assert f"layer 2, head 5, row 1, column 7: most of it, {largest:.3f}," in said.value
    layer.value = 99
    assert layer.value == 4  # there are four blocks
    uploaded(lab, b"not a picture")
    assert "no picture that can be read" in said.value


def test_fetched_weights_take_a_colour_picture(trained, fashion, monkeypatch):
    """A stand-in for the official model: of its shape, untrained."""
    wide = create_model("convit_tiny", 0, depth=2, local_up_to_layer=1, img_size=64)
    monkeypatch.setattr(parity, "from_timm", lambda name, pretrained: wide)
    lab = widgets.attention_lab(trained, fashion, fashion.test_images[:1])
    uploaded(lab, png((90, 60)))
    lab.children[0].children[1].click()
    lab.fetching.join(10)
    layer, head, row, column = lab.children[1].children
    assert (layer.max, head.max, row.max, column.max) == (2, 4, 4, 4)
    assert "layer 1, head 1, row 2, column 2" in lab.children[-1].value


def test_fetching_keeps_nobody_waiting_and_without_a_network_the_recorded_model_stays(trained, fashion, monkeypatch):
    answer = threading.Event()

    def slow(*_, **__):
        answer.wait(30)
        raise OSError("timed out")

    monkeypatch.setattr(parity, "from_timm", slow)
    lab = widgets.attention_lab(trained, fashion, fashion.test_images[:1])
    fetch, said = lab.children[0].children[1], lab.children[-1]
    fetch.click()  # returns at once
    assert fetch.disabled and "everything else goes on" in said.value and lab.fetching.is_alive()
    lab.children[1].children[0].value = 2
    assert "layer 2, head 1" in said.value
    answer.set()
    lab.fetching.join(10)
    assert "could not be fetched (OSError); the model trained here stays" in said.value and not fetch.disabled


def test_an_upload_is_read_in_ipywidgets_7_and_8():
    content = png()
    new = ({"name": "p", "content": memoryview(content)},)
    old = {"p": {"metadata": {"name": "p"}, "content": content}}
    assert widgets.uploaded_bytes(new) == widgets.uploaded_bytes(old) == content
