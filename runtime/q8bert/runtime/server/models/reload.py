"""New bundles take over while the server runs: they are seen, loaded and proven first, and refused if that fails.

A folder is looked at every few seconds. What changed is loaded when it looks the same twice, so that a copy that is
being made is left in peace; a bundle's checksums catch what comes in between. The old bundle serves until the new one
can, and where the new one cannot, it goes on serving, and log, health and metrics say so.
"""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from q8bert.runtime.server.models.models import Key, Model, Models
from q8bert.runtime.server.models.sources import Signature, Source, card_of, signature_of
from q8bert.runtime.server.options import ModelOptions, ServerOptions
from q8bert.spec.bundle.bundle import open_bundle
from q8bert.spec.errors import BundleError

__all__ = ["Loader"]


class Loader:
    """Loads the models of some sources, and what changes in them.

    Args:
        sources: Names and folders.
        models: Takes the models.
        options: Limits of the server.
        model_options: How models are run.
        log: Is told what happens.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        models: Models,
        *,
        options: ServerOptions,
        model_options: ModelOptions,
        log: logging.Logger,
    ) -> None:
        self._sources, self._models, self._options, self._model_options = sources, models, options, model_options
        self._log = log
        self._asked = asyncio.Event()
        self._seen: dict[Key, Signature] = {}  # as of the last look
        self._refused: dict[Key, Signature] = {}
        self._gone: set[Key] = set()
        self._closing: set[asyncio.Task[None]] = set()

    async def load_all(self) -> None:
        """Load every version of every model; any that cannot be loaded ends the start.

        Raises:
            BundleError: If a bundle cannot be used.
            ConfigError: If options do not fit.
            ProviderError: If a provider cannot be had.
        """
        for source in self._sources:
            versions = source.versions()
            if not versions:
                raise BundleError(f"{source.folder} is gone, or has no bundle any more")
            for number, folder in versions.items():
                model = await self._load((source.name, number), folder)
                await self._models.put(model, drain_s=0)
                self._say("loaded", model)

    def ask(self) -> None:
        """Look at the folders at once, and do not wait for them to look the same twice."""
        self._asked.set()

    async def watch(self) -> None:
        """Look at the folders for ever."""
        while True:
            was_asked = False
            try:
                async with asyncio.timeout(self._options.reload_s or None):
                    await self._asked.wait()
                was_asked = True
            except TimeoutError:
                pass
            self._asked.clear()
            try:
                await self.check(at_once=was_asked)
            except Exception:  # noqa: BLE001 - looking goes on, whatever one look met
                self._log.exception("the folders could not be looked at", extra={"event": "reload"})

    async def check(self, *, at_once: bool) -> None:
        """Look at every folder once, and load what changed.

        Args:
            at_once: Whether what changed is loaded though it may be changing still.
        """
        for source in self._sources:
            found = source.versions()
            for number, folder in found.items():
                await self._check_bundle((source.name, number), folder, at_once=at_once)
            for number in self._models.versions(source.name):
                if number not in found:
                    self._check_gone((source.name, number), at_once=at_once)

    async def _check_bundle(self, key: Key, folder: Path, *, at_once: bool) -> None:
        self._gone.discard(key)
        signature = await asyncio.to_thread(signature_of, folder)
        has_settled = self._seen.get(key) == signature
        self._seen[key] = signature
        model = self._models.get(key)
        is_known = self._refused.get(key) == signature and not at_once
        if not signature or is_known or not (has_settled or at_once):
            return
        if model is not None and model.signature == signature:
            self._models.problems.pop(key, None)  # the bundle that serves is back
            self._refused.pop(key, None)
            return
        try:
            await self._replace(key, folder, signature, model)
        except Exception as error:  # noqa: BLE001 - whatever it is, the old one serves on
            self._refuse(key, signature, error)
        else:
            self._refused.pop(key, None)

    async def _replace(self, key: Key, folder: Path, signature: Signature, model: Model | None) -> None:
        if model is not None:
            opened = await asyncio.to_thread(open_bundle, folder)
            if opened.manifest.digest == model.digest:  # copied again, or its card was edited
                model.signature, model.card = signature, await asyncio.to_thread(card_of, folder)
                self._models.problems.pop(key, None)
                return
        new = await self._load(key, folder)
        self._models.n_reloads[key, "taken"] += 1
        self._say("took over", new, replaced=None if model is None else model.digest)
        self._in_background(self._models.put(new, drain_s=self._options.drain_s))
        await asyncio.sleep(0)  # it has taken over when this goes on

    def _refuse(self, key: Key, signature: Signature, error: Exception) -> None:
        name, number = key
        self._refused[key] = signature
        self._models.n_reloads[key, "refused"] += 1
        serving = "the bundle before it goes on serving" if self._models.get(key) else "this version is not served"
        self._models.problems[key] = f"the new bundle was refused, {serving}: {error}"
        self._log.error(
            "a new bundle was refused",
            extra={"event": "reload", "model": name, "version": str(number), "error": str(error)},
        )

    def _check_gone(self, key: Key, *, at_once: bool) -> None:
        if key not in self._gone and not at_once:  # a rename may be under way
            self._gone.add(key)
            return
        name, number = key
        if len(self._models.versions(name)) == 1:
            self._models.problems[key] = "its folder is gone; the bundle that was loaded goes on serving"
            return
        self._gone.discard(key)
        self._log.info("unloaded", extra={"event": "reload", "model": name, "version": str(number)})
        self._in_background(self._models.remove(key, drain_s=self._options.drain_s))

    async def _load(self, key: Key, folder: Path) -> Model:
        return await asyncio.to_thread(
            Model.load, key, folder, options=self._model_options, max_queue=self._options.max_queue
        )

    def _in_background(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _say(self, what: str, model: Model, **more: object) -> None:
        name, number = model.key
        classifier = model.classifier
        self._log.info(
            what,
            extra={
                "event": "reload" if more else "load",
                "model": name,
                "version": str(number),
                "folder": str(model.folder),
                "digest": model.digest,
                "precision": classifier.precision,
                "note": classifier.precision_note,
                **more,
            },
        )
