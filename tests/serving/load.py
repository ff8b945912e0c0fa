"""Clients that ask one server again and again, and note what became of every request."""

import contextlib
import http.client
import json
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

WORDS = ["good", "bad", "the", "clever", "film", "plot", "dull", "great", "very", "actors"]


def sentence(rng: random.Random) -> str:
    """Return a text of a random length."""
    return " ".join(rng.choices(WORDS, k=rng.randint(1, 40)))


@dataclass
class Ended:
    """What became of one request."""

    name: str
    text: str
    status: int | None  # None: no answer came
    answer: Any = None
    is_first: bool = True  # of its connection
    error: str = ""


@dataclass
class Load:
    """Some clients in threads."""

    url: str
    ended: list[Ended] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    retries: bool = False

    def client(self, number: int) -> None:
        """Ask until told to stop, or until nobody listens any more."""
        connection = http.client.HTTPConnection(self.url, timeout=60)
        with contextlib.closing(connection):
            self._ask(connection, number)

    def _ask(self, connection: http.client.HTTPConnection, number: int) -> None:
        rng, n_sent, is_first = random.Random(number), 0, True
        while not self.stopping.is_set():
            n_sent += 1
            name, text = f"{number}-{n_sent}", sentence(rng)
            tensor = {"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": [text]}
            body = json.dumps({"id": name, "inputs": [tensor]})
            while True:
                try:
                    connection.request("POST", "/v2/models/sentiment/infer", body)
                    response = connection.getresponse()
                    answer = json.loads(response.read())
                    break
                except ConnectionRefusedError:
                    return
                except (OSError, http.client.HTTPException) as error:
                    if not self.retries:
                        self.ended.append(Ended(name, text, None, is_first=is_first, error=repr(error)))
                        return
                    connection.close()  # the next request opens it again
                    is_first = True
            self.ended.append(Ended(name, text, response.status, answer, is_first))
            is_first = bool(response.will_close)


@contextmanager
def load(url: str, *, n_clients: int, retries: bool = False) -> Iterator[Load]:
    """Let clients ask for as long as the block lasts; all of them have ended after it."""
    made = Load(url, retries=retries)
    threads = [threading.Thread(target=made.client, args=(number,)) for number in range(n_clients)]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        made.stopping.set()
        for thread in threads:
            thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads)


def wait_for(made: Load, n_more: int, *, seconds: float = 60) -> None:
    """Return when so many more requests have ended."""
    wanted, until = len(made.ended) + n_more, time.monotonic() + seconds
    while len(made.ended) < wanted:
        assert time.monotonic() < until, "the load stands still"
        time.sleep(0.02)


def probabilities(answer: Any) -> Sequence[float]:
    """Return the probabilities of an answer to one row."""
    found: Sequence[float] = next(one["data"] for one in answer["outputs"] if one["name"] == "probabilities")
    return found
