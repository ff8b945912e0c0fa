"""What decides about the answers of a job: kept beside them, so that no two kinds are ever mixed."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated

from q8bert.runtime.engines.engine import ONNX_RUNTIME, EngineName
from q8bert.runtime.engines.providers.names import Provider
from q8bert.runtime.engines.providers.table import CPU_PROVIDER
from q8bert.runtime.predict.classifier import BatchSize, OnLong, Threads
from q8bert.runtime.predict.graph_choice import AUTO, GraphName
from q8bert.runtime.scoring.reading.formats import SCORED_FORMATS
from q8bert.spec.checked import fit_fields
from q8bert.spec.kinds import one_of

__all__ = ["ScoringOptions"]


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """How rows are read, answered and written.

    Attributes:
        text: Column of the first or only text; default the task's own name for it, or ``text``.
        text_pair: Column of the second text; default the task's own name, or ``text_pair``.
        format: How the input is written; default by the ending of each file.
        output_format: How the output is written; default as the input.
        prefix: What the names of the new columns begin with.
        skip_malformed: Give rows that cannot be read null answers and an ``error`` instead of stopping.
        on_long: Rows longer than the bundle's maximum length: ``truncate`` them, or ``refuse`` them as malformed.
        engine: What runs the model.
        providers: ONNX Runtime's execution providers.
        bfloat16: Whether OpenVINO computes what is not in integers in bfloat16.
        batch_size: Rows a batch.
        graph: Form of the model: ``main``, a target of the export, or ``auto`` for what suits the first provider.
        threads: CPU threads of an engine; 0 for all cores, or on Ray for one.

    Raises:
        ConfigError: If a value is of another type or out of range.
    """

    text: str | None = None
    text_pair: str | None = None
    format: Annotated[str, one_of(SCORED_FORMATS)] | None = None
    output_format: Annotated[str, one_of(SCORED_FORMATS)] | None = None
    prefix: str = ""
    skip_malformed: bool = False
    on_long: OnLong = "truncate"
    engine: EngineName = ONNX_RUNTIME
    providers: tuple[Provider, ...] = (CPU_PROVIDER,)
    bfloat16: bool = False
    batch_size: BatchSize = 32
    graph: GraphName = AUTO
    threads: Threads = 0

    def __post_init__(self) -> None:
        """Check every value."""
        fit_fields(self)

    def deciding(self) -> Mapping[str, object]:
        """Return what a finished file depends on, as a JSON object; threads decide about nothing."""
        values = asdict(self)
        del values["threads"]
        if self.graph == AUTO:  # as of jobs that were begun when there was no choice
            del values["graph"]
        return {**values, "providers": [_plain(one) for one in self.providers]}


def _plain(provider: Provider) -> object:
    return provider if isinstance(provider, str) else [provider[0], dict(provider[1])]
