"""How many threads torch is given, and that it is given them back."""

import pytest
import torch

from q8bert.training.engines import threads as threads_module
from q8bert.training.engines.threads import torch_threads


@pytest.mark.parametrize(
    ("asked", "of_torch", "cores", "processes", "expected"),
    [
        (3, 8, 2, "1", 3),  # what was asked for
        (0, 8, 2, "1", 2),  # a container's quota
        (0, 1, 2, "1", 1),  # OMP_NUM_THREADS, or a caller's own choice
        (0, 1, 16, "4", 4),  # torchrun gives each process one thread
        (0, 1, 2, "4", 1),
    ],
)
def test_threads_are_those_asked_for_or_those_of_the_cores(
    asked: int, of_torch: int, cores: int, processes: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads_module, "available_cores", lambda n_processes: max(1, cores // n_processes))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(of_torch)
        with torch_threads(asked) as found:
            assert (found, torch.get_num_threads()) == (expected, expected)
        assert torch.get_num_threads() == of_torch
        with pytest.raises(ValueError, match="of the caller"), torch_threads(asked):
            raise ValueError("of the caller")
        assert torch.get_num_threads() == of_torch
    finally:
        torch.set_num_threads(before)
