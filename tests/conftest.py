"""What every test may count on: one thread, a cache of its own, and a generator that starts where it always does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # Tests run in several processes; two OpenMP threads each would wait for one another.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUTELAGE_CACHE", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")  # and so for the processes that tests start
        yield folder


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    state = torch.get_rng_state()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(state)
    assert not torch.are_deterministic_algorithms_enabled(), "a test left deterministic mode on"
