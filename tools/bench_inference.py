"""Time INT8 inference against the other ways to run the same model on the same CPU, side by side.

*Fixed shapes*: batches of random tokens, tensors to logits. Ours in INT8 and in float32, both on q8bert's runtime; ONNX
Runtime's own dynamic and static quantization, with defaults and as its guide advises, and its weights of 8 bits in
blocks; torch in float32 and with its dynamic INT8; OpenVINO on our float32 and our INT8 file, and on what NNCF makes of
the float32 one; CTranslate2 in INT8, with our head; torchao's programs of today (PT2E), compiled. Peers with an
environment of their own are left out where there is none. Where the CPU can, OpenVINO computes float32 models in
bfloat16 by default: `…_bf16` lines let it, the others ask for float32. `static` lines compile anew for each shape,
`dynamic` lines take any, as ours does; `throughput` lines split the batch over one stream a thread. Who takes any shape
also runs 32 rows of several lengths alone and as one padded batch: what a row is answered should not depend on its
neighbours.

*Dev splits*, with `--dev`: texts to labels. Ours in INT8, the same padded to the maximum length, ours in float32, and
the Hugging Face pipeline; ONNX Runtime's quantizations where bundles of them are given. `torch_…` and `openvino_…` have
no texts to labels of their own; they get q8bert's tokenizer and batches by length, the best that they can have.

Each contender is a process in an environment of its own, with the same number of threads, which spin or sleep as its
library has it by default. They take turns in random order, so that they meet the same noise. CPU seconds are of all
threads of the process, memory is its peak. Who cannot run is named with the reason. Models that are not given are made:
BERT-base with random weights, MiniLM-L6 with a random head. `bench_inference_report.py` makes figures of the times.

    python tools/bench_inference.py --dev SST-2=GLUE/SST-2 STS-B=GLUE/STS-B
    python tools/bench_inference.py --shapes --dev STS-B=GLUE/STS-B --bundle int8=bundles/int8 float32=bundles/fp32
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from bench_inference_contest import TOOLS, Contender, Field, Settings, say
from bench_machine import machine

SHAPES = ("minilm-l6:1x32", "minilm-l6:1x128", "minilm-l6:16x128", "bert-base:8x128")
BASELINES = ("ort_dynamic", "ort_dynamic_tuned", "ort_static", "ort_static_tuned", "ort_matmul_nbits")
BUNDLES = ("int8", "float32", "dynamic", "static", "huggingface", "ctranslate2", "nncf", "torchao")
_TOKENS_A_TURN = 1024  # a turn on small batches is several calls
_MODEL_FILES = ("model.onnx", "model.onnx.data", "model.safetensors", "model.bin")


def _openvino(shapes: str, hint: str, precision: str) -> Iterable[Contender]:
    options = {"precision": precision, "shapes": shapes, "hint": hint.upper()}
    for file, path in (("float32", "float32/model.onnx"), ("int8", "int8/model.onnx"), ("nncf", "nncf.xml")):
        name = f"openvino_{file}_{shapes}_{hint}{'' if precision == 'f32' else '_bf16'}"
        yield Contender(name, "openvino", path, options=options)


TENSOR_CONTENDERS = (
    Contender("ours_int8", "q8bert", "int8/model.onnx"),
    Contender("ours_int8_openvino", "q8bert_openvino", "int8/model.onnx"),
    Contender("ours_float32", "q8bert", "float32/model.onnx"),
    Contender("ctranslate2_int8", "ctranslate2", "ctranslate2", "ctranslate2"),
    *(Contender(name, "onnxruntime", f"{name}.onnx") for name in BASELINES),
    Contender("torch_float32", "torch", "huggingface", "train"),
    Contender("torch_dynamic_int8", "torch", "huggingface", "train", {"dynamic": "yes"}),
    Contender("torchao_static", "torchao", "torchao_static.pt2", "torchao"),
    Contender("torchao_dynamic", "torchao", "torchao_dynamic.pt2", "torchao"),
    *(who for how in product(("static", "dynamic"), ("latency", "throughput"), ("f32",)) for who in _openvino(*how)),
    *(who for how in product(("static",), ("latency", "throughput"), ("bf16",)) for who in _openvino(*how)),
)
_OPENVINO_BATCHES = {"tensors": "openvino", "shapes": "dynamic", "hint": "LATENCY", "precision": "f32"}
TEXT_CONTENDERS = (
    Contender("ours_int8", "classifier", "int8"),
    Contender("ours_int8_openvino", "classifier", "int8", options={"engine": "openvino"}),
    Contender("ours_int8_padded", "batches", "int8/model.onnx", options={"tensors": "q8bert", "padded": "yes"}),
    Contender("ours_float32", "classifier", "float32"),
    Contender("ort_dynamic", "classifier", "dynamic"), Contender("ort_static", "classifier", "static"),
    Contender("torch_float32", "batches", "huggingface", "train", {"tensors": "torch"}),
    Contender("torch_dynamic_int8", "batches", "huggingface", "train", {"tensors": "torch", "dynamic": "yes"}),
    Contender("openvino_float32", "batches", "float32/model.onnx", options=_OPENVINO_BATCHES),
    Contender("openvino_int8", "batches", "int8/model.onnx", options=_OPENVINO_BATCHES),
    Contender("openvino_nncf", "batches", "nncf/nncf.xml", options=_OPENVINO_BATCHES),
    Contender("ctranslate2_int8", "batches", "ctranslate2", "ctranslate2", {"tensors": "ctranslate2"}),
    Contender("torchao_static", "batches", "torchao/torchao_static.pt2", "torchao", {"tensors": "torchao"}),
    Contender("torchao_dynamic", "batches", "torchao/torchao_dynamic.pt2", "torchao", {"tensors": "torchao"}),
    Contender("huggingface_pipeline", "pipeline", "huggingface", "train"),
)  # fmt: skip


def bench_shapes(size: str, folder: Path, shapes: Sequence[str], *, n_rounds: int, settings: Settings) -> Any:
    """Time batches of random tokens on one model; returns times by shape, differences of a batch, and versions."""
    paths = {contender.name: folder / contender.path for contender in TENSOR_CONTENDERS}
    contest = Field(TENSOR_CONTENDERS, paths, settings)
    found = {}
    wanted = (tuple(map(int, shape.split("x"))) for shape in shapes)
    for batch, length in sorted(wanted, key=math.prod):  # the peak of memory only rises
        request = {"shape": (batch, length), "n_calls": max(1, _TOKENS_A_TURN // (batch * length))}
        records = contest.rounds([request | {"seed": settings.seed + number} for number in range(n_rounds + 1)])
        found[f"{size}:{batch}x{length}"] = _part(records, paths, contest.skipped, n_rows=batch)
    anywhere = [who.name for who in TENSOR_CONTENDERS if who.options.get("shapes") != "static"]
    answers = contest.ask({"compare_batches": True, "seed": settings.seed}, anywhere)
    contest.close()
    return found, {name: answer["largest_difference"] for name, answer in answers.items()}, contest.versions


def bench_split(folders: Mapping[str, Path], data_dir: str, *, n_rounds: int, settings: Settings) -> Any:
    """Time a dev split from texts to labels; returns times and versions."""
    manifest = json.loads((folders["int8"] / "manifest.json").read_text(encoding="utf-8"))
    told = {**settings.told, "task": manifest["task"], "max_length": manifest["max_length"]}
    told["bundle"] = str(folders["int8"])
    paths = {}
    for contender in TEXT_CONTENDERS:
        name, _, file = contender.path.partition("/")
        if name in folders:
            paths[contender.name] = folders[name] / file
    contest = Field(TEXT_CONTENDERS, paths, replace(settings, told=told))
    records = contest.rounds([{"data_dir": data_dir, "warm_up": number == 0} for number in range(n_rounds + 1)])
    contest.close()
    n_rows = max((record.pop("n_rows") for record in records.values()), default=0)
    return _part(records, paths, contest.skipped, n_rows=n_rows), contest.versions


def make_model(work_dir: Path, size: str, task: str, *, settings: Settings, reuse: bool) -> Path:
    """Make a model in every precision, or take the one that the last call made; returns its folder."""
    folder = work_dir / f"{size}-{task}-{settings.seed}"
    if not (reuse and (folder / "baselines.json").is_file()):
        shutil.rmtree(folder, ignore_errors=True)
        say(f"making {folder}")
        seed = ["--seed", str(settings.seed)]
        command: list[Any] = [settings.pythons["train"], TOOLS / "make_bench_model.py", folder, *seed]
        subprocess.run([*command, "--size", size, "--task", task], check=True)
        # its quantizers are newer than those beside ONNX Runtime Training
        command = [settings.pythons["peers"], TOOLS / "make_bench_baselines.py", folder, *seed]
        with suppress(FileNotFoundError):  # without that environment they are left out, and said to be missing
            subprocess.run(command, check=False, stderr=subprocess.DEVNULL)
        for env in ("ctranslate2", "nncf", "torchao"):  # peers with an environment of their own, each optional
            with suppress(FileNotFoundError):
                subprocess.run(
                    [settings.pythons[env], TOOLS / f"make_bench_{env}.py", folder],
                    check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
    return folder


def main() -> None:
    """Run the benchmark."""
    args = _arguments()
    told = {"threads": args.threads, "batch_size": args.batch_size}
    pythons = {
        "train": args.train_python, "peers": args.peers_python, "ctranslate2": args.ctranslate2_python,
        "nncf": args.nncf_python, "torchao": args.torchao_python,
    }  # fmt: skip
    settings = Settings(pythons, args.seed, told, args.only)
    report: dict[str, Any] = {
        "machine": machine(),
        **told,
        "seed": args.seed,
        "versions": {},
        "shapes": {},
        "batches": {},
        "splits": {},
    }
    for size in sorted({shape.partition(":")[0] for shape in args.shapes}):
        shapes = [shape.partition(":")[2] for shape in args.shapes if shape.startswith(f"{size}:")]
        folder = make_model(args.work_dir, size, "SST-2", settings=settings, reuse=args.reuse_models)
        found, together, versions = bench_shapes(size, folder, shapes, n_rounds=args.rounds, settings=settings)
        report["shapes"] |= found
        report["batches"][size] = together
        report["versions"] |= versions
    given = {name: Path(path) for name, _, path in (entry.partition("=") for entry in args.bundle)}
    for task, _, data_dir in (entry.partition("=") for entry in args.dev):
        folders = given
        if not {"int8", "float32", "huggingface"} <= set(given):
            folder = make_model(args.work_dir, "minilm-l6", task, settings=settings, reuse=args.reuse_models)
            folders = {name: folder / name for name in ("int8", "float32", "huggingface", "ctranslate2")} | given
            folders = {"nncf": folder, "torchao": folder} | folders
        report["splits"][task], versions = bench_split(folders, data_dir, n_rounds=args.dev_rounds, settings=settings)
        report["versions"] |= versions
    if args.raw:
        args.raw.write_text(json.dumps(report), encoding="utf-8")
    command = [sys.executable, str(TOOLS / "bench_inference_report.py"), *(["--json"] if args.json else [])]
    sys.exit(subprocess.run(command, input=json.dumps(report), text=True, check=False).returncode)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--shapes",
        nargs="*",
        default=SHAPES,
        help=f"size:batchxlength; default {' '.join(SHAPES)}; none leaves them out",
    )
    add("--rounds", type=int, default=15, help="turns of each contender at each shape")
    add("--dev", nargs="*", default=[], metavar="TASK=FOLDER", help="dev splits to run from texts to labels")
    add("--dev-rounds", type=int, default=3, help="turns of each contender on each dev split")
    add("--only", nargs="*", default=[], metavar="NAME", help="contenders that take part; default all")
    add("--bundle", nargs="*", default=[], metavar="NAME=PATH", help=f"for dev splits: {', '.join(BUNDLES)}")
    add("--batch-size", type=int, default=32, help="rows a batch on dev splits")
    add("--threads", type=int, default=os.cpu_count() or 1)
    add("--seed", type=int, default=0, help="seed of weights, tokens and the order of turns")
    add("--train-python", default=".venv/train/bin/python", help="has torch, transformers and q8bert")
    add("--peers-python", default=".venv/train/bin/python", help="has onnxruntime, onnx, openvino and q8bert")
    add(
        "--ctranslate2-python",
        default=".venv/ctranslate2/bin/python",
        help="has ctranslate2, torch, transformers, q8bert",
    )
    add("--nncf-python", default=".venv/nncf/bin/python", help="has nncf, openvino and q8bert; makes its file alone")
    add("--torchao-python", default=".venv/torchao/bin/python", help="has torchao, torch, transformers and q8bert")
    add("--work-dir", type=Path, default=Path("build/bench"), help="where models are made")
    add("--reuse-models", action="store_true", help="run the models that the last call made, instead of new ones")
    add("--raw", type=Path, help="write the times of all calls to this file")
    add("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def _part(records: dict[str, Any], paths: Mapping[str, Path], skipped: Mapping[str, str], *, n_rows: int) -> Any:
    for name, record in records.items():
        files = [paths[name], paths[name].with_suffix(".bin"), *(paths[name] / file for file in _MODEL_FILES)]
        record["file_bytes"] = sum(file.stat().st_size for file in files if file.is_file())
    ordered = {name: records[name] for name in paths if name in records}
    return {"n_rows": n_rows, "contenders": ordered, "skipped": dict(skipped)}


if __name__ == "__main__":
    main()
