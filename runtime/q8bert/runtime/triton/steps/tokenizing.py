"""The first step: texts → ids, padded as little as Triton's batches allow."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from q8bert.runtime.predict.parts import task_and_tokenizer
from q8bert.runtime.triton.interface import MASK, TEXT, TEXT_PAIR, TRUNCATED
from q8bert.runtime.triton.options import PYTHON_BACKEND
from q8bert.runtime.triton.steps.step import Arrays, Outcome, Place, rows_of_requests
from q8bert.spec.bundle.bundle import TOKENIZER_FILE, Manifest, open_bundle
from q8bert.spec.bundle.parts import open_parts
from q8bert.spec.errors import BundleError, InputError
from q8bert.text.batching import model_inputs
from q8bert.text.encoded import Encoded
from q8bert.text.tokenizer import TextTokenizer

__all__ = ["TokenizerStep"]

# Triton's own batcher puts together only requests of the same length: lengths are rounded up so that more are alike
_LENGTH_MULTIPLE = 8

Texts = tuple[list[str], list[str] | None]


class TokenizerStep:
    """Makes ids of texts.

    Args:
        tokenizer: Makes them.
        manifest: Says the inputs of the graph, the padding, and the maximum length.
        has_pairs: Whether rows are pairs of texts.
        refuses_long: Whether a row beyond the maximum length is an error.
        max_characters: Most characters of a row.
        is_ragged: Whether the next step takes requests of any lengths together, and wants to be told the lengths.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        manifest: Manifest,
        *,
        has_pairs: bool,
        refuses_long: bool,
        max_characters: int,
        is_ragged: bool,
    ) -> None:
        self.input_names: Sequence[str] = (TEXT, TEXT_PAIR) if has_pairs else (TEXT,)
        self._tokenizer, self._manifest = tokenizer, manifest
        self._refuses_long, self._max_characters = refuses_long, max_characters
        self._names = tuple(dict.fromkeys((*manifest.input_names, *([MASK] if is_ragged else []))))
        # no longer than the model takes, whatever the maximum length is
        self._multiple = 1 if is_ragged else math.gcd(_LENGTH_MULTIPLE, manifest.max_length)

    @classmethod
    def load(cls, place: Place) -> Self:
        """Load the tokenizer, its file and those of the model checked against the manifest.

        Triton's ONNX Runtime backend takes whatever file is there. So the tokenizer looks at the model's folder too,
        where that lies beside its own, and does not become ready when a file in it is another.

        Args:
            place: The version's folder, with tokenizer and manifest; parameters ``backend``, ``model``, ``on_long``
                and ``max_characters``.

        Returns:
            The step.

        Raises:
            BundleError: If files are missing, altered, or of another bundle than the model's.
        """
        bundle, contents = open_parts(place.folder, (TOKENIZER_FILE,))
        model = place.folder.parent.with_name(place.parameters["model"]) / place.folder.name
        if model.is_dir():
            _check_same(bundle.manifest, model, place.folder)
        tokenizer = contents[TOKENIZER_FILE].decode("utf-8", "replace")
        task, made = task_and_tokenizer(bundle, tokenizer, threads=1)
        return cls(
            made,
            bundle.manifest,
            has_pairs=task.data.has_pairs,
            refuses_long=place.parameters["on_long"] == "refuse",
            max_characters=int(place.parameters["max_characters"]),
            is_ragged=place.parameters["backend"] == PYTHON_BACKEND,
        )

    def run(self, requests: Sequence[Arrays]) -> list[Outcome]:
        """Tokenize requests; see :class:`~q8bert.runtime.triton.steps.step.Step`."""
        outcomes: list[Outcome | None] = [None] * len(requests)
        good: dict[int, Texts] = {}
        for at, request in enumerate(requests):
            try:
                good[at] = self._texts(request)
            except InputError as error:
                outcomes[at] = error
        for at, outcome in zip(good, self._encoded([*good.values()]), strict=True):
            outcomes[at] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def _texts(self, request: Arrays) -> Texts:
        columns = [_decoded(name, request[name]) for name in self.input_names]
        for row, texts in enumerate(zip(*columns, strict=True)):
            if (n_characters := sum(map(len, texts))) > self._max_characters:
                raise InputError(
                    f"row {row} has {n_characters} characters, and at most {self._max_characters} are taken"
                )
        return columns[0], columns[1] if len(columns) > 1 else None

    def _encoded(self, requests: Sequence[Texts]) -> list[Outcome]:
        first = [text for texts, _ in requests for text in texts]
        second = [text for _, texts in requests for text in texts or ()]
        try:
            encoded = self._tokenizer.encode(first, second if len(self.input_names) > 1 else None)
        except InputError as error:
            # the tokenizer fails on some text: whoever sent it is told, and nobody else
            return [error] if len(requests) <= 1 else [self._encoded([one])[0] for one in requests]
        return [self._arrays(encoded, rows) for rows in rows_of_requests([len(texts) for texts, _ in requests])]

    def _arrays(self, encoded: Encoded, rows: NDArray[np.int64]) -> Outcome:
        truncated = np.array([[row in encoded.truncated] for row in rows.tolist()], dtype=np.bool_).reshape(-1, 1)
        if self._refuses_long and truncated.any():
            return InputError(
                f"row {int(truncated.argmax())} has more than the {self._manifest.max_length} tokens that the bundle "
                "was trained with, and long rows are refused. Shorten it"
            )
        ids = model_inputs(
            encoded, rows, self._names, pad_token_id=self._manifest.pad_token_id, multiple=self._multiple
        )
        return {**ids, TRUNCATED: truncated}


def _decoded(name: str, values: NDArray[Any]) -> list[str]:
    texts = []
    for row, value in enumerate(values.reshape(-1).tolist()):
        try:
            texts.append(value.decode("utf-8") if isinstance(value, bytes) else str(value))
        except UnicodeDecodeError as error:
            raise InputError(f"row {row} of {name} is not UTF-8, at its byte {error.start}") from error
    return texts


def _check_same(manifest: Manifest, model: Path, folder: Path) -> None:
    if open_bundle(model).manifest.digest != manifest.digest:
        raise BundleError(
            f"{model} is another bundle than the one that the tokenizer in {folder} is of. Write the version again "
            "with `q8bert triton`"
        )
