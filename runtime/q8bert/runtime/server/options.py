"""What can be chosen of a server: where it listens, what it takes, how long it waits, how its models are run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from q8bert.runtime.engines.engine import ONNX_RUNTIME, EngineName
from q8bert.runtime.engines.options import RuntimeOptions
from q8bert.runtime.engines.providers.names import Provider
from q8bert.runtime.engines.providers.table import CPU_PROVIDER
from q8bert.runtime.predict.classifier import BatchSize, OnLong
from q8bert.runtime.predict.graph_choice import AUTO, GraphName
from q8bert.spec.checked import fit_fields
from q8bert.spec.kinds import above, at_least, share

__all__ = ["ModelOptions", "ServerOptions"]

_LAST_PORT = 65_535

Seconds = Annotated[float, above(0)]
Wait = Annotated[float, at_least(0)]
Count = Annotated[int, at_least(1)]
Port = Annotated[int, at_least(0)]


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Where a server listens and what it takes; checked once, every fault reported.

    Attributes:
        host: Address to listen on.
        port: Port; 0 for any that is free.
        own_port: A second port that this process has alone, where several share ``port``; None for none.
        reuse_port: Whether other processes may listen on ``port`` too; the kernel spreads connections over them.
        token: What callers have to send as ``Authorization: Bearer``; None for nothing.
        max_body_bytes: Largest body of a request, also once it is unpacked.
        max_buffered_bytes: Bytes of all bodies together that are held at one time.
        max_rows: Most rows of a request.
        max_queue: Most rows of a model that are taken and not answered yet.
        max_connections: Most connections at one time.
        read_s: How long a client may take for the head of a request, and again for its body, and to read an answer.
        keep_alive_s: How many whole seconds a connection may be idle between two requests; more than a proxy before the
            server keeps its own, or a request may meet a connection that is being closed.
        timeout_s: Deadline of a request, from its arrival; a request may ask for a shorter one.
        leave_s: How long after SIGTERM the server still takes requests while it says that it is not ready.
        drain_s: How long after that it waits for answers that are on their way.
        reload_s: How often the folders are looked at for new bundles; 0 for never.

    Raises:
        ConfigError: If a value is of the wrong kind or out of range.
    """

    host: str = "127.0.0.1"
    port: Port = 8000
    own_port: Port | None = None
    reuse_port: bool = False
    token: str | None = field(default=None, repr=False)
    max_body_bytes: Count = 4 * 2**20
    max_buffered_bytes: Count = 256 * 2**20
    max_rows: Count = 512
    max_queue: Count = 1024
    max_connections: Count = 2048
    read_s: Seconds = 10.0
    keep_alive_s: Count = 75
    timeout_s: Seconds = 30.0
    leave_s: Wait = 1.0
    drain_s: Wait = 30.0
    reload_s: Wait = 2.0

    def __post_init__(self) -> None:
        """Check every value."""
        fit_fields(self, self._conflicts)

    def _conflicts(self) -> Sequence[str]:
        faults = [
            f"{name} must be at most {_LAST_PORT}, got {port}"
            for name, port in (("port", self.port), ("own_port", self.own_port or 0))
            if port > _LAST_PORT
        ]
        if self.own_port and self.own_port == self.port:
            faults.append(f"own_port must be another than port, got {self.port} twice")
        if self.max_rows > self.max_queue:
            faults.append(
                f"max_rows must be at most max_queue, or the largest request could never be taken; got {self.max_rows} "
                f"and {self.max_queue}"
            )
        if self.max_body_bytes > self.max_buffered_bytes:
            faults.append(
                f"max_body_bytes must be at most max_buffered_bytes, got {self.max_body_bytes} and "
                f"{self.max_buffered_bytes}"
            )
        if self.token is not None and (not self.token or not all("!" <= letter <= "~" for letter in self.token)):
            # the value is not repeated here: it is a secret
            faults.append("the token must be one word of printable ASCII characters, as a header can carry it")
        return faults


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How the models of a server are run; checked once, every fault reported.

    Attributes:
        engine: What runs them: ``onnxruntime`` or ``openvino``.
        providers: ONNX Runtime's execution providers.
        graph: Form of the models: ``main``, a target of the export, or ``auto`` for what suits the first provider.
        runtime: Threads and what else an engine can be told.
        on_long: Rows longer than a bundle's maximum length: ``truncate`` or ``refuse`` them.
        max_batch_size: Most rows in a batch.
        max_batch_tokens: Most tokens in a batch, padding included.
        max_padding: Most padding of a row, as a share of the longest row of its batch.
        max_delay_ms: Longest time that a row waits for others while a worker is idle.
        max_characters: Most characters of a row.
        workers: Threads that run a model, each on a batch of its own; None for as many as there are cores.

    Raises:
        ConfigError: If a value is of the wrong kind or out of range.
    """

    engine: EngineName = ONNX_RUNTIME
    providers: Sequence[Provider] = (CPU_PROVIDER,)
    graph: GraphName = AUTO
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions.service)
    on_long: OnLong = "truncate"
    max_batch_size: BatchSize = 32
    max_batch_tokens: Count = 4096
    max_padding: Annotated[float, share()] = 0.25
    max_delay_ms: Wait = 2.0
    max_characters: Count = 100_000
    workers: Count | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        fit_fields(self)
