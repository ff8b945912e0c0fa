"""What two processes say to each other, by gloo."""

import json
import os
import socket
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch import nn

from q8bert.spec.errors import JobError
from q8bert.training.loop import processes as processes_module
from q8bert.training.loop.processes import joined_processes

# what the second process does, in the order in which the tests below do it
SECOND = """
import json, torch
from q8bert.spec.errors import JobError
from q8bert.training.loop.processes import joined_processes

said = []
with joined_processes(torch.device("cpu")) as processes:
    tensor = torch.tensor([2.0, -3.0])
    for exchange in (processes.sum_, processes.max_, processes.take_first_):
        given = tensor.clone()
        exchange(given)
        said.append(given.tolist())
    weights = [torch.arange(6.0).reshape(2, 3), torch.tensor([1.0])]
    processes.refuse_drift(weights)
    weights[0][1, 2] = torch.nextafter(weights[0][1, 2], torch.tensor(9.0))
    for number, check in enumerate((
        lambda: processes.refuse_drift(weights),
        lambda: processes.agree(2, on="the number"),
    )):
        try:
            check()
        except JobError as error:
            said.append(str(error))
print(json.dumps(said))
"""


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def test_two_processes_exchange_numbers_and_refuse_weights_that_differ_in_one_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    second = subprocess.Popen(
        [sys.executable, "-c", SECOND], env={**os.environ, **job, "RANK": "1"}, stdout=subprocess.PIPE, text=True
    )
    for name, value in (job | {"RANK": "0"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes_module, "_PATIENCE", timedelta(seconds=60))
    said: list[Any] = []
    with joined_processes(torch.device("cpu")) as processes:
        assert (processes.rank, processes.count, processes.is_first) == (0, 2, True)
        for exchange in (processes.sum_, processes.max_, processes.take_first_):
            given = torch.tensor([1.0, 4.0])
            exchange(given)
            said.append(given.tolist())
        weights = [nn.Parameter(torch.arange(6.0).reshape(2, 3)), nn.Parameter(torch.tensor([1.0]))]
        processes.refuse_drift(weights)  # equal to the bit
        with pytest.raises(
            JobError, match="do not agree on the weights: they have drifted apart, so this checkpoint is"
        ):
            processes.refuse_drift(weights)
        with pytest.raises(JobError, match=r"do not agree on the number\. With several machines"):
            processes.agree(1, on="the number")
    stdout, _ = second.communicate(timeout=60)
    assert second.returncode == 0
    assert said == [[3.0, 1.0], [2.0, 4.0], [1.0, 4.0]]
    *exchanged, drift, number = json.loads(stdout)
    assert exchanged == said
    assert "they have drifted apart" in drift
    assert "do not agree on the number" in number
