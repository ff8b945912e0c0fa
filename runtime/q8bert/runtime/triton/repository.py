"""Writing a model repository, or a new version into one: whole, or not at all.

A repository that is not there yet appears with all its models. In one that is there, Triton may be looking: each folder
appears whole, the steps first and the ensemble's configuration last, so a version can be called when all of it stands.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from q8bert.runtime.triton.configs import model_names
from q8bert.runtime.triton.kserve import KServe, inference_service
from q8bert.runtime.triton.options import TritonOptions
from q8bert.runtime.triton.plan import Model, Plan, plan_of
from q8bert.runtime.triton.versions import Standing, faults_of, standing
from q8bert.spec.bundle.bundle import MODEL_FILE, open_bundle
from q8bert.spec.bundle.named import named_folders
from q8bert.spec.checked import checked
from q8bert.spec.errors import BundleError, ConfigError, OutputError
from q8bert.spec.files import write_bytes, write_text
from q8bert.spec.folders import entries, new_folder, refuse_unwritable, remove_folder

__all__ = ["SERVICE_FILE", "RepositoryReport", "WrittenModel", "write_repository"]

# beside the models; Triton looks at folders alone
SERVICE_FILE = "inferenceservice.yaml"


@dataclass(frozen=True)
class WrittenModel:
    """A bundle in the repository.

    Attributes:
        name: What callers name.
        version: The version that was written.
        bundle: The bundle's folder.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
    """

    name: str
    version: int
    bundle: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class RepositoryReport:
    """What was written.

    Attributes:
        repository: The folder.
        backend: What runs the models.
        device: Where.
        models: One entry a bundle.
        service: The KServe service.
    """

    repository: str
    backend: str
    device: str
    models: tuple[WrittenModel, ...]
    service: str


@checked
def write_repository(
    bundles: Sequence[str],
    output_dir: Path | str,
    *,
    options: TritonOptions | None = None,
    version: int | None = None,
    replace_config: bool = False,
    kserve: KServe | None = None,
) -> RepositoryReport:
    """Write bundles as models of a Triton repository, which may be there already.

    Args:
        bundles: ``NAME=FOLDER`` or ``FOLDER`` each.
        output_dir: The repository.
        options: How the models are run.
        version: The version, higher than those that are there; None for the next one.
        replace_config: Whether the configuration of a model that is there may change, which goes for its older versions
            too.
        kserve: What is known of the cluster.

    Returns:
        What was written.

    Raises:
        BundleError: If a bundle is incomplete, altered or unreadable.
        ConfigError: If options or names do not fit, or a model that is there has another interface or configuration.
        OutputError: If it cannot be written.
    """
    folder, options = Path(output_dir), options or TritonOptions()
    named = named_folders(bundles, models_of=model_names)
    before = {name: standing(folder, name) for name in named}
    plans = [
        plan_of(name, bundle, options, version=before[name].next_version(version)) for name, bundle in named.items()
    ]
    if faults := [
        fault for plan in plans for fault in faults_of(plan, before[plan.name], replace_config=replace_config)
    ]:
        raise ConfigError(faults)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is no folder. Give another --output-dir")
    models = sorted({*named, *_ensembles(folder)})
    service = inference_service(
        folder.absolute().name,
        models,
        options,
        kserve or KServe(),
        model_bytes=sum(len(plan.steps[1].own[MODEL_FILE]) for plan in plans),
    )
    refuse_unwritable(folder)
    if folder.is_dir() and entries(folder):
        for plan in plans:
            _add(folder, plan, before[plan.name])
        write_text(folder / SERVICE_FILE, service)
    else:
        with new_folder(folder) as partial:
            for plan in plans:
                for model in plan.models:
                    _fill(partial / model.name, model, plan)
            write_text(partial / SERVICE_FILE, service)
    return RepositoryReport(
        repository=str(folder),
        backend=options.backend,
        device=options.device,
        models=tuple(_written(plan, named[plan.name]) for plan in plans),
        service=str(folder / SERVICE_FILE),
    )


def _add(repository: Path, plan: Plan, before: Standing) -> None:
    for model in plan.models:
        target = repository / model.name
        if not before.is_there:
            # without an ensemble, what has a step's name is what a crash left of an earlier attempt
            with new_folder(target) as partial:
                _fill(partial, model, plan)
            continue
        for left in before.leftovers(target, plan.version):
            remove_folder(left)
        with new_folder(target / str(plan.version)) as partial:
            _fill_version(partial, model, plan)
        for name, content in sorted(model.shared.items()):
            if not (target / name).is_file() or (target / name).read_bytes() != content:
                (target / name).parent.mkdir(exist_ok=True)
                write_bytes(target / name, content)


def _fill(folder: Path, model: Model, plan: Plan) -> None:
    for name, content in model.shared.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    version = folder / str(plan.version)
    version.mkdir(parents=True)
    _fill_version(version, model, plan)


def _fill_version(folder: Path, model: Model, plan: Plan) -> None:
    for name, content in model.own.items():
        (folder / name).write_bytes(content)
    if MODEL_FILE in model.own and open_bundle(folder).manifest.digest != plan.manifest.digest:
        raise BundleError(f"the bundle of {plan.name} was replaced while it was read. Give the same command again")


def _ensembles(repository: Path) -> list[str]:
    # whose name a step of it has
    names = {path.name for path in entries(repository) if path.is_dir()} if repository.is_dir() else set()
    return [name for name in names if f"{name}-tokenizer" in names]


def _written(plan: Plan, bundle: Path) -> WrittenModel:
    outputs = (*plan.interface.answers, plan.interface.truncated)
    return WrittenModel(
        name=plan.name,
        version=plan.version,
        bundle=str(bundle),
        inputs=tuple(tensor.name for tensor in plan.interface.texts),
        outputs=tuple(tensor.name for tensor in outputs),
    )
