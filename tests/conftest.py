"""What several test files ask for by name."""

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    """Sums over more threads differ in their last bits, and what is small is done sooner by one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
