"""What every test and every notebook kernel started by pytest shares."""

import os

# Kernels inherit this environment: stored outputs hold no progress bar.
os.environ["CONVIT_EDU_PROGRESS"] = "0"
# Threads that wait for a busy core sleep instead of spinning: on a machine that does other work as well, small
# networks train up to twice as fast for it. It is read when torch is imported, which comes later.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Where pytest-xdist shares the tests out, each worker and the kernels that it starts have their share of the cores.
if (workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
# A kernel chooses the inline backend only if nobody chose before it; without that its figures are not stored.
os.environ.pop("MPLBACKEND", None)

try:
    import matplotlib
    import matplotlib.font_manager  # builds its cache here, once: a kernel that waited for it would say so on stderr

    matplotlib.use("Agg")  # tests run in this process and open no windows
except ImportError:
    pass


def pytest_collectstart(collector) -> None:
    """Pictures are never compared: nbval knows that of PNG, and is told here of SVG."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("image/svg+xml",)
