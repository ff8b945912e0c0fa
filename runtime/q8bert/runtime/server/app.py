"""The addresses of a server, and what answers there."""

import json
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from q8bert.runtime.server.http.bodies import Buffered
from q8bert.runtime.server.http.door import Door, Facts, Receive, Scope, Send
from q8bert.runtime.server.http.page import page, page_policy
from q8bert.runtime.server.http.refusals import RefusedError
from q8bert.runtime.server.inference import infer
from q8bert.runtime.server.metrics import Metrics
from q8bert.runtime.server.models.models import Model, Models
from q8bert.runtime.server.options import ServerOptions
from q8bert.runtime.server.protocol.protocol import model_metadata

__all__ = ["Application"]

_INFER = re.compile(r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?/infer")
_EXTENSIONS = ("binary_tensor_data", "model_repository(index)")


class Application:
    """All addresses of a server, over its models.

    Args:
        models: The models.
        options: Limits.
        log: Gets a line a request.
        version: Of q8bert.

    Attributes:
        door: The ASGI application.
        metrics: What it counts.
    """

    def __init__(self, models: Models, *, options: ServerOptions, log: logging.Logger, version: str) -> None:
        self._models, self._options, self._log, self._version = models, options, log, version
        self._buffered = Buffered(options.max_buffered_bytes)
        self.metrics = Metrics(models, state=lambda: (self.door.n_inside, self._buffered.held))
        self._addresses = self._routes()
        self.door = Door(self._dispatch, token=options.token, log=log, ended=self._count)

    def _routes(self) -> FastAPI:
        app = FastAPI(
            title="q8bert serve",
            version=self._version,
            docs_url=None,  # its pages of documentation load scripts from elsewhere
            redoc_url=None,
            redirect_slashes=False,
            telemetry={"tracing": False, "metrics": False, "logs": False},  # of releases that have any
        )
        app.add_exception_handler(RefusedError, _refused)
        app.add_exception_handler(HTTPException, _no_such_thing)
        app.add_exception_handler(Exception, self._unforeseen)
        model, version = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"
        addresses: list[tuple[str, str, Callable[..., Any]]] = [
            ("GET", "/", self._page),
            ("GET", "/metrics", self._metrics),
            ("GET", "/v2", self._server),
            ("GET", "/v2/", self._server),
            ("GET", "/v2/health/live", self._live),
            ("GET", "/v2/health/ready", self._ready),
            ("GET", "/v2/repository/index", self._index),
            ("POST", "/v2/repository/index", self._index),
        ]
        for path in (model, version):
            addresses += [
                ("GET", path, self._model),
                ("GET", f"{path}/ready", self._model_ready),
                ("GET", f"{path}/card", self._card),
                ("POST", f"{path}/infer", self._infer),
            ]
        for method, path, answer in addresses:
            app.add_api_route(
                path, answer, methods=[method], response_model=None, operation_id=f"{method} {path}", summary=path
            )
        return app

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer requests for inference without FastAPI, which takes longer for one than all the rest here does."""
        match = _INFER.fullmatch(scope["path"]) if scope["method"] == "POST" else None
        if match is None:
            await self._addresses(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await self._infer(request, match["name"], match["version"])
        except RefusedError as refused:
            response = await _refused(request, refused)
        except Exception as error:  # noqa: BLE001 - as FastAPI does for the other addresses
            response = await self._unforeseen(request, error)
        await response(scope, receive, send)

    async def _live(self) -> Response:
        return _json({"live": True})

    async def _ready(self, request: Request) -> Response:
        is_ready = not self.door.is_leaving and all(model.service.healthy for model in self._models)
        content: dict[str, Any] = {"ready": is_ready}
        if problems := self._models.problems:
            facts: Facts = request.scope["facts"]
            content["problems"] = [
                # paths are nothing for strangers
                {"model": name, "version": str(number), **({"reason": reason} if facts.is_trusted else {})}
                for (name, number), reason in sorted(problems.items())
            ]
        return _json(content, status_code=200 if is_ready else 503)

    async def _server(self) -> Response:
        return _json({"name": "q8bert", "version": self._version, "extensions": list(_EXTENSIONS)})

    async def _metrics(self) -> Response:
        return Response(self.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def _page(self) -> Response:
        return HTMLResponse(page(), headers={"Content-Security-Policy": page_policy()})

    async def _index(self) -> Response:
        served = [
            {
                "name": model.key[0],
                "version": str(model.key[1]),
                "state": "READY" if model.service.healthy else "UNAVAILABLE",
                "reason": self._models.problems.get(model.key, ""),
            }
            for model in self._models
        ]
        others = self._models.problems.keys() - {model.key for model in self._models}
        unserved = [
            {
                "name": name,
                "version": str(number),
                "state": "UNAVAILABLE",
                "reason": self._models.problems[name, number],
            }
            for name, number in sorted(others)
        ]
        return _json([*served, *unserved])

    async def _model(self, name: str, version: str | None = None) -> Response:
        model = self._models.find(name, version)
        versions = [str(number) for number in self._models.versions(name)]
        return _json(model_metadata(model.classifier.task, name=name, versions=versions, parameters=_about(model)))

    async def _model_ready(self, name: str, version: str | None = None) -> Response:
        model = self._models.find(name, version)
        is_ready = model.service.healthy and not self.door.is_leaving
        return _json({"name": name, "ready": is_ready}, status_code=200 if is_ready else 503)

    async def _card(self, name: str, version: str | None = None) -> Response:
        return PlainTextResponse(self._models.find(name, version).card, media_type="text/markdown")

    async def _infer(self, request: Request, name: str, version: str | None = None) -> Response:
        body, headers = await infer(
            self._models,
            name,
            version,
            receive=request.receive,
            headers=request.headers,
            options=self._options,
            buffered=self._buffered,
            facts=request.scope["facts"],
        )
        return Response(body, headers=dict(headers))

    async def _unforeseen(self, request: Request, error: Exception) -> Response:
        self._log.error("unforeseen", extra={"event": "defect"}, exc_info=error)
        return await _refused(request, RefusedError(500, f"unforeseen {type(error).__name__}; the log says more"))

    def _count(self, facts: Facts) -> None:
        self.metrics.request_ended(
            model=facts.model, version=facts.version, outcome=facts.outcome, seconds=facts.seconds
        )


def _about(model: Model) -> Mapping[str, object]:
    classifier = model.classifier
    manifest = classifier.bundle.manifest
    return {
        "task": classifier.task.name,
        "labels": list(classifier.task.head.labels),
        "max_length": manifest.max_length,
        "precision": classifier.precision,
        "precision_note": classifier.precision_note,
        "digest": model.digest,
        "version": str(model.key[1]),
    }


def _json(content: object, *, status_code: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    # ASCII, so that messages may repeat halves of surrogate pairs, which UTF-8 has not
    body = json.dumps(content, allow_nan=False).encode()
    return Response(body, status_code, dict(headers or {}), "application/json")


async def _refused(request: Request, error: Exception) -> Response:
    refusal = error if isinstance(error, RefusedError) else RefusedError(500, str(error))
    facts: Facts = request.scope["facts"]
    facts.error = refusal.message
    return _json({"error": refusal.message}, status_code=refusal.status, headers=refusal.headers)


async def _no_such_thing(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    headers = error.headers if isinstance(error, HTTPException) and error.headers else {}
    what = {404: "there is nothing at this address; /v2 says what this server is", 405: "not with this method"}
    return await _refused(request, RefusedError(status, what.get(status, str(error)), headers))
