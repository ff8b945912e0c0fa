"""Print what each ingredient of the grids is worth, on a fine-tuned float model and training rows that it has not seen.

Holds out a tenth of a task's training rows, trains a float run on the rest (kept for the next time), and quantizes it
without any training, calibrated on the rows that it was trained on. Prints

1. the squared error of each embedding table, relative to its squares, with one scale and with a scale a column;
2. the squared error of what each site's readers compute, relative to its squares, on the held-out rows;
3. the squared difference of the outputs to the float model's, relative to their variance, on the held-out rows.

*ratio* is smoothing as it was before errors were measured: outliers scaled down where the largest exceeds 4 τ.

    python tools/grid_errors.py GLUE/STS-B --task STS-B
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from reproduction.data import prepare_rows
from torch import Tensor, nn

from q8bert.export.encoded_rows import EncodedRows
from q8bert.export.trained_run import TrainedRun, load_trained_run
from q8bert.tasks.glue import GLUE_TASKS, glue_task
from q8bert.tasks.metrics import score
from q8bert.tasks.task import Task
from q8bert.text.batching import shuffled_batches
from q8bert.training import TrainConfig, train
from q8bert.training.engines.torch_engine import TorchEngine
from q8bert.training.objectives.objective import objective_of
from q8bert.training.quantization.calibration import see_sites
from q8bert.training.quantization.fake_quantize import WeightGrid, fake_quantize_weight_
from q8bert.training.quantization.grid_choice import Reader, choose_grid, observed_ranges, product_error
from q8bert.training.quantization.ranges import RangeState
from q8bert.training.quantization.seen_site import SeenSite
from q8bert.training.quantization.sites import Site, find_sites
from q8bert.training.quantization.smoothing import exponent_candidates
from q8bert.training.quantization.weights import prepare_weights, quantized_parameters

SHARE, SEED, DECAY, N_OBSERVATIONS, BATCH_SIZE = 0.1, 11, 0.99, 8, 16


@dataclass(frozen=True)
class Model:
    """A fine-tuned float model and its rows.

    Attributes:
        run: Where it comes from.
        sites: Its sites, neither smoothed nor shifted.
        held_out: Training rows that it has not seen.
        calibration: What calibration sees of each site.
        fresh: The same on the held-out rows.
    """

    run: TrainedRun
    sites: tuple[Site, ...]
    held_out: EncodedRows
    calibration: list[SeenSite]
    fresh: list[SeenSite]

    @property
    def module(self) -> nn.Module:
        """The float model."""
        return self.run.model.source.model

    def readers(self, site: Site, grids: Mapping[str, WeightGrid]) -> list[Reader]:
        """Return the Linear layers that read a site."""
        names = [f"{linear}.weight" for linear in site.linears]
        return [Reader(self.module.get_parameter(name).detach(), grids.get(name)) for name in names]

    def amax(self, sites: Sequence[Site]) -> Tensor:
        """Return the first ranges of sites, ``(n_sites,)``."""
        return RangeState.of(observed_ranges(sites, self.calibration), decay=DECAY).amax()


def float_run(task: Task, data_dir: Path, work_dir: Path, *, model: str, threads: int) -> TrainedRun:
    """Return a float run on all but the held-out rows, trained if it is not there yet."""
    run, data = work_dir / task.name / "run", work_dir / task.name / "data"
    prepare_rows(task, data_dir, data, n_train=0, held_out=SHARE)
    config = TrainConfig.from_options(
        task=task, data_dir=str(data), model=model, output_dir=run, quantize=False, threads=threads, seed=SEED
    )
    train(config, report=print)
    return load_trained_run(run)


def make_model(run: TrainedRun) -> Model:
    """Look at a run's activations, on rows that it was trained on and on rows that it was not."""
    module = run.model.source.model
    training, held_out = (run.rows(run.source(), name, print) for name in ("train", "dev"))
    sites = find_sites(module)

    def observations(split: EncodedRows, n: int) -> list[list[Mapping[str, Tensor]]]:
        steps = shuffled_batches(split.encoded.lengths, BATCH_SIZE, seed=SEED, epoch=0)[:n]
        return [[split.inputs(rows)] for rows in steps]

    return Model(
        run,
        sites,
        held_out,
        see_sites(module, sites, observations(training, N_OBSERVATIONS)),
        see_sites(module, sites, observations(held_out, 2 * N_OBSERVATIONS), n_rows=2048),
    )


def ways(model: Model) -> dict[str, tuple[Site, ...]]:
    """Return the sites with each ingredient."""
    grids = quantized_parameters(model.module, per_channel=True)

    def chosen(*, smoothing: bool, zero_points: bool) -> tuple[Site, ...]:
        return tuple(
            choose_grid(
                site, seen, model.readers(site, grids), decay=DECAY, smoothing=smoothing, zero_points=zero_points
            )
            for site, seen in zip(model.sites, model.calibration, strict=True)
        )

    return {
        "plain": model.sites,
        "ratio": tuple(_by_ratio(site, seen) for site, seen in zip(model.sites, model.calibration, strict=True)),
        "zero points": chosen(smoothing=False, zero_points=True),
        "smoothing": chosen(smoothing=True, zero_points=False),
        "both": chosen(smoothing=True, zero_points=True),
    }


def _by_ratio(site: Site, seen: SeenSite) -> Site:
    amax = torch.maximum(-seen.lowest, seen.highest).amax(dim=0)
    exponents = exponent_candidates(amax, torch.ones_like(amax))[0]
    return replace(site, smoothing=tuple(exponents.tolist())) if exponents.max() >= 3 else site


def print_tables(model: Model) -> None:
    """Print the error of each embedding table."""
    print("\n| table | one scale | a scale a column |\n|---|---|---|")
    for name, module in model.module.named_modules():
        if isinstance(module, nn.Embedding):
            weight, errors = module.weight.detach(), []
            for grid in (WeightGrid(None), WeightGrid(1)):
                rounded = torch.empty_like(weight)
                fake_quantize_weight_(rounded, weight, grid)
                errors.append(float((rounded - weight).square().sum() / weight.square().sum()))
            print(f"| {name} | {errors[0]:.1e} | {errors[1]:.1e} |")


def print_sites(model: Model, found: Mapping[str, tuple[Site, ...]]) -> None:
    """Print the error of each site's products on the held-out rows, and means over sites of one kind."""
    grids = quantized_parameters(model.module, per_channel=True)
    by_kind: dict[str, list[list[float]]] = defaultdict(list)
    print(f"\n| site | {' | '.join(found)} | exponents from, to | zero point |\n|---|{'---|' * len(found)}---|---|")
    ranges = {name: model.amax(sites) for name, sites in found.items()}
    for index, site in enumerate(model.sites):
        readers, rows = model.readers(site, grids), model.fresh[index].rows
        products = [rows @ reader.weight.t() for reader in readers]
        squares = sum(float(product.square().sum()) for product in products)
        errors = [
            float(product_error(sites[index], ranges[name][index], rows, readers, products)) / squares
            for name, sites in found.items()
        ]
        last = found["both"][index]
        exponents = f"{min(last.smoothing)}, {max(last.smoothing)}" if last.smoothing else "none"
        texts = " | ".join(f"{error:.1e}" for error in errors)
        print(f"| {site.name} | {texts} | {exponents} | {last.zero_point} |", flush=True)
        by_kind[".".join(part for part in site.name.split(".")[-4:] if not part.isdigit())].append(errors)
    print(f"\n| mean over sites | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
    for kind, of_kind in by_kind.items():
        print(f"| {kind} ({len(of_kind)}) | {' | '.join(f'{error:.1e}' for error in np.mean(of_kind, axis=0))} |")


def print_outputs(model: Model, found: Mapping[str, tuple[Site, ...]]) -> None:
    """Print how far the outputs are from the float model's, with each ingredient alone and with all."""
    columns = quantized_parameters(model.module, per_channel=True)
    one_scale = quantized_parameters(model.module, per_channel=True, per_column=False)
    linears = {name: grid for name, grid in columns.items() if grid.axis == 0}
    floats = outputs_of(model, (), {})
    metric = model.run.config.task.data.main_metric
    print(f"\n| quantized | difference | {metric} |\n|---|---|---|", flush=True)
    print(f"| nothing | | {scored(model, floats):.2f} |", flush=True)
    for name, sites, grids in (
        ("Linear weights", (), linears),
        ("tables, one scale", (), _tables(one_scale)),
        ("tables, a scale a column", (), _tables(columns)),
        *((f"activations, {way}", sites, {}) for way, sites in found.items()),
        ("all: one scale a table, ratio", found["ratio"], one_scale),
        ("all: a scale a column, ratio", found["ratio"], columns),
        ("all: a scale a column, smoothing", found["smoothing"], columns),
        ("all: a scale a column, both", found["both"], columns),
    ):
        outputs = outputs_of(model, sites, grids)
        difference = ((outputs - floats) ** 2).mean() / floats.var(axis=0).mean()
        print(f"| {name} | {difference:.1e} | {scored(model, outputs):.2f} |", flush=True)


def _tables(grids: Mapping[str, WeightGrid]) -> dict[str, WeightGrid]:
    return {name: grid for name, grid in grids.items() if grid.axis != 0}


def outputs_of(model: Model, sites: tuple[Site, ...], grids: Mapping[str, WeightGrid]) -> np.ndarray:
    """Return the outputs on the held-out rows, quantized as given; weights without a grid stay float."""
    weights = prepare_weights(model.module, quantized_parameters(model.module, per_channel=True), sites)
    for name, effective in weights.effective.items():
        if name in grids:
            fake_quantize_weight_(effective, weights.smoothed(name), grids[name])
        elif name in weights.quantized:
            effective.copy_(weights.smoothed(name))
    head = model.run.config.task.head
    engine = TorchEngine(model.module, sites, weights, objective_of(head))
    amax = model.amax(sites) if sites else None
    outputs = torch.zeros(len(model.held_out), head.n_outputs)
    for rows, batch in model.held_out.batches(64):
        outputs[rows] = engine.outputs(batch, amax)["logits"]
    found: np.ndarray = outputs.double().numpy()
    return found


def scored(model: Model, outputs: np.ndarray) -> float:
    """Return the main metric on the held-out rows, in points."""
    task, split = model.run.config.task, model.held_out
    restored = split.target_scale.restore(torch.from_numpy(outputs)).numpy()
    return 100 * score(task, restored, split.labels or ())[task.data.main_metric]


def parse(add: Callable[[argparse.ArgumentParser], object] = lambda _: None) -> tuple[argparse.Namespace, Model]:
    """Return what was asked for, and the model; other tools add options of theirs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, help="folder of the task's files")
    parser.add_argument("--task", default="STS-B", choices=list(GLUE_TASKS))
    parser.add_argument("--model", default="minilm-l6", help="as for `q8bert train`")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work-dir", type=Path, default=Path("build/grid-errors"))
    add(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    run = float_run(glue_task(args.task), args.data_dir, args.work_dir, model=args.model, threads=args.threads)
    return args, make_model(run)


def main() -> None:
    """Print the tables."""
    _, model = parse()
    found = ways(model)
    print_tables(model)
    print_sites(model, found)
    print_outputs(model, found)


if __name__ == "__main__":
    main()
