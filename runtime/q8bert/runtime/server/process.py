"""The process: sockets, signals, and an end in which every request that was taken is answered."""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

import uvicorn

from q8bert.runtime.server.app import Application
from q8bert.runtime.server.http.connections import guarded
from q8bert.runtime.server.models.models import Models
from q8bert.runtime.server.models.reload import Loader
from q8bert.runtime.server.models.sources import Source
from q8bert.runtime.server.options import ModelOptions, ServerOptions
from q8bert.spec.errors import ConfigError

__all__ = ["ServeReport", "run_server"]

_BACKLOG = 2048
_TICK_S = 0.02
# a client that has connected sends its first request within this time, or is taken for one that only keeps a connection
_FIRST_REQUEST_S = 0.5
# for writing the last answers, once all of them are known
_FAREWELL_S = 3


@dataclass(frozen=True, kw_only=True)
class ServeReport:
    """What a server did.

    Attributes:
        address: Where it listened.
        models: Name and version of each model.
        outcomes: Requests for inference by how they ended.
        seconds: How long it ran.
        drained: Whether all that was taken was answered before the limit.
    """

    address: str
    models: tuple[str, ...]
    outcomes: dict[str, int]
    seconds: float
    drained: bool


def run_server(
    sources: Sequence[Source],
    *,
    options: ServerOptions,
    model_options: ModelOptions,
    log: logging.Logger,
    version: str,
) -> ServeReport:
    """Load bundles and serve them until SIGTERM or SIGINT.

    Args:
        sources: Names and folders.
        options: Where to listen, and limits.
        model_options: How models are run.
        log: Is told what happens.
        version: Of q8bert.

    Returns:
        What was done.

    Raises:
        BundleError: If a bundle cannot be used.
        ConfigError: If the address cannot be had, or options do not fit.
        ProviderError: If a provider cannot be had.
    """
    sockets = [_bound(options.host, options.port, shared=options.reuse_port)]
    try:
        if options.own_port is not None:
            sockets.append(_bound(options.host, options.own_port, shared=False))
        serving = _serve(
            sources, sockets=sockets, options=options, model_options=model_options, log=log, version=version
        )
        return asyncio.run(serving)
    finally:
        for one in sockets:
            one.close()


async def _serve(
    sources: Sequence[Source],
    *,
    sockets: list[socket.socket],
    options: ServerOptions,
    model_options: ModelOptions,
    log: logging.Logger,
    version: str,
) -> ServeReport:
    models = Models()
    loader = Loader(sources, models, options=options, model_options=model_options, log=log)
    started = time.monotonic()
    watching: asyncio.Task[None] | None = None
    try:
        await loader.load_all()
        application = Application(models, options=options, log=log, version=version)
        server = _Server(application, models, options=options, log=log)
        addresses = [_address(one) for one in sockets]
        watching = asyncio.ensure_future(loader.watch())
        with suppress(NotImplementedError, AttributeError):  # Windows has no such signal
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, loader.ask)
        if options.token is None and options.host not in {"127.0.0.1", "::1", "localhost"}:
            log.warning("anybody who reaches this address may use it; there is no token", extra={"event": "start"})
        log.info("listening", extra={"event": "start", "addresses": addresses, "models": list(_names(models))})
        await server.serve(sockets=sockets)
        return ServeReport(
            address=addresses[0],
            models=_names(models),  # which may be others by now
            outcomes=dict(application.metrics.outcomes()),
            seconds=round(time.monotonic() - started, 3),
            drained=server.has_drained,
        )
    finally:
        if watching is not None:
            watching.cancel()
        await models.close(drain_s=0)


def _names(models: Models) -> tuple[str, ...]:
    return tuple(f"{model.key[0]}/{model.key[1]}" for model in models)


class _Server(uvicorn.Server):
    """Uvicorn, with another end: say so first, take no more, answer what was taken, close.

    Args:
        application: What answers.
        models: Its models.
        options: How long the end may take.
        log: Is told of it.

    Attributes:
        has_drained: Whether everything that was taken was answered in time.
    """

    def __init__(
        self, application: Application, models: Models, *, options: ServerOptions, log: logging.Logger
    ) -> None:
        super().__init__(
            uvicorn.Config(
                application.door,
                http=guarded(max_connections=options.max_connections, read_s=options.read_s),
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=_BACKLOG,
                timeout_keep_alive=options.keep_alive_s,
                timeout_graceful_shutdown=_FAREWELL_S,
            )
        )
        self._door, self._models, self._options, self._log = application.door, models, options, log
        self.has_drained = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn calls it
        """Begin the end; a second signal cuts it short. Unlike uvicorn's, it lets the process end well afterwards."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the server.

        Args:
            sockets: What it listens on.
        """
        self._log.info("leaving", extra={"event": "stop", "in_flight": self._door.n_inside})
        self._door.is_leaving = True
        await self._wait(self._options.leave_s, lambda: False)
        await self._stop_listening(sockets or [])
        # a connection that was accepted a moment ago has sent its request already, or is about to
        await self._wait(min(_FIRST_REQUEST_S, self._options.drain_s), lambda: not self._n_without_request())
        await self._wait(self._options.drain_s, lambda: not self._door.n_inside)
        self.has_drained = not self._door.n_inside
        if not self.has_drained:
            await self._models.close(drain_s=0)  # who waits is told so
        await super().shutdown(sockets)
        self._log.info("stopped", extra={"event": "stop", "drained": self.has_drained})

    async def _stop_listening(self, sockets: list[socket.socket]) -> None:
        """Accept who has connected already, which closing a socket would reset, and close at the same moment."""
        loop = asyncio.get_running_loop()
        accepted = []
        for listening in sockets:
            # NotImplementedError: Windows' event loop accepts in its own way
            with suppress(BlockingIOError, NotImplementedError):
                loop.remove_reader(listening)
                while True:
                    accepted.append(listening.accept()[0])
        for server in self.servers:
            server.close()
        for connection in accepted:
            connection.settimeout(0)
            await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        make: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return make(config=self.config, server_state=self.server_state, app_state={})

    def _n_without_request(self) -> int:
        connections = self.server_state.connections
        return sum(getattr(connection, "cycle", None) is None for connection in connections)

    async def _wait(self, seconds: float, is_over: Callable[[], bool]) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.force_exit and not is_over():
            await asyncio.sleep(_TICK_S)


def _bound(host: str, port: int, *, shared: bool) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
        try:
            if hasattr(socket, "SO_REUSEADDR"):
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.bind(address)
        except BaseException:
            made.close()
            raise
    except (OSError, AttributeError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(
            [f"cannot listen on {host} port {port} ({why}); choose others with --host and --port"]
        ) from error
    return made


def _address(listening: socket.socket) -> str:
    host, port, *_ = listening.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
