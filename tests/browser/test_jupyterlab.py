"""The chapters as JupyterLab shows them: boxes and equations rendered, no raw syntax, no solution in the open.

Nothing is run: a server of our own opens copies of the notebooks, and the kernels that it starts are left alone.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BOOK = Path(__file__).resolve().parents[2] / "book"
NOTEBOOKS = sorted(path.name for path in BOOK.glob("*.ipynb"))
RAW = re.compile(r"\{[a-z:]+\}`|:::|^```\{|\((?:eq|fig|ex)-[a-z-]+\)|[Nn]ot found", re.M)
SETTINGS = {"@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"}}  # every cell, not those in sight alone
WORDS = "() => [...document.querySelectorAll('.jp-MarkdownCell')].map(cell => cell.innerText).join('\\n')"
OPEN = """() => [...document.querySelectorAll('.jp-Notebook .jp-Cell')].map(cell => {
  const editor = cell.querySelector('.jp-InputArea-editor');
  return cell.classList.contains('jp-CodeCell') && editor !== null && editor.offsetHeight > 0;
})"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab on copies of the notebooks, with settings of its own."""
    pytest.importorskip("jupyterlab_myst", reason="jupyterlab-myst is not installed: pip install -e '.[book]'")
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(BOOK, home / "book")
    for plugin, settings in SETTINGS.items():
        path = home / "settings" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(settings), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    environment = os.environ | {name: str(home / name) for name in own}
    environment["JUPYTERLAB_SETTINGS_DIR"] = str(home / "settings")
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    command += ["--IdentityProvider.token=", f"--ServerApp.root_dir={home / 'book'}", "--LabApp.news_url=None"]
    with open(home / "log", "wb") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as server:
        address = f"http://127.0.0.1:{port}"
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/api", timeout=5)
                break
            except OSError:
                time.sleep(1)
        else:
            pytest.fail(f"JupyterLab does not start: {(home / 'log').read_text()[-2000:]}")
        yield address
        server.terminate()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_reads_as_a_notebook(new_page, lab, name):
    cells = json.loads((BOOK / name).read_text(encoding="utf-8"))["cells"]
    page = new_page()
    page.goto(f"{lab}/lab/tree/{name}?reset", timeout=120_000)
    shown = "n => document.querySelectorAll('.jp-Notebook .jp-Cell').length >= n"
    page.wait_for_function(shown, arg=len(cells), timeout=120_000)
    deadline, raw = time.monotonic() + 30, None
    while raw != [] and time.monotonic() < deadline:  # cells are drawn one after the other
        time.sleep(0.5)
        raw = RAW.findall(page.evaluate(WORDS))
    assert not raw, f"raw syntax: {raw[:5]}"
    folded = [cell["metadata"].get("jupyter", {}).get("source_hidden", False) for cell in cells]
    opened = page.evaluate(OPEN)
    assert len(opened) == len(cells)
    assert not [i for i, (hidden, seen) in enumerate(zip(folded, opened)) if hidden and seen]
