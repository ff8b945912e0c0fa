"""Make figures of the times that `bench_inference.py` took: percentiles, ratios, goals; as tables or JSON.

Reads what it was given with `--raw`. Ratios are of the least time of each contender and, second, of the medians: how
many times as long as ours in INT8 on ONNX Runtime; those of goals are to the better of our two engines. A logit
difference is the largest to ours in float32 on the same random rows, an agreement the share of rows with its label (for
regression, with a score within 0.05): signs that all did the same work.

    python tools/bench_inference_report.py < build/bench/raw.json
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping
from typing import Any

OURS, FLOAT = "ours_int8", "ours_float32"
ENGINES = (OURS, "ours_int8_openvino")  # the same file on either engine: a service takes the faster one
# where, against whom, how many times as long as ours that one takes at least
_SHAPES = ("bert-base:8x128", "minilm-l6:16x128", "minilm-l6:1x32")
_GOALS = (
    *((shape, "openvino_nncf", 1.0) for shape in _SHAPES),
    *((shape, "ctranslate2_int8", 1.3) for shape in _SHAPES),
    *((shape, FLOAT, 2.0) for shape in _SHAPES),
    ("dev", "openvino_nncf", 1.0),
    ("dev", "ctranslate2_int8", 1.3),
    ("dev", "huggingface_pipeline", 8.0),
)
_SIZE_GOAL = ("bert-base:8x128", 3.97)


def figures(part: Mapping[str, Any], compare: Callable[[list[Any], list[Any]], float], what: str) -> dict[str, Any]:
    """Return the figures of all contenders at one shape, or on one dev split."""
    records = part["contenders"]
    found: dict[str, Any] = {}
    for name, record in records.items():
        wall, cpu = record["wall"], record["cpu"]
        percentiles = statistics.quantiles(wall, n=100, method="inclusive") if len(wall) > 1 else wall * 99
        found[name] = {
            "n_calls": len(wall),
            "min_ms": 1e3 * min(wall),
            "p50_ms": 1e3 * percentiles[49],
            "p90_ms": 1e3 * percentiles[89],
            "p99_ms": 1e3 * percentiles[98],
            "rows_a_second": part["n_rows"] / percentiles[49],
            "cpu_min_ms": 1e3 * min(cpu),
            "cpu_median_ms": 1e3 * statistics.median(cpu),
            "peak_memory_mb": record["peak_memory_mb"],
            "file_bytes": record["file_bytes"],
        }
        if FLOAT in records:
            found[name][what] = compare(record["result"], records[FLOAT]["result"])
    for found_here in found.values():
        if OURS in found:
            found_here["ratio_to_int8"] = found_here["min_ms"] / found[OURS]["min_ms"]
            found_here["ratio_to_int8_of_medians"] = found_here["p50_ms"] / found[OURS]["p50_ms"]
    result = {"n_rows": part["n_rows"], "contenders": found, "skipped": part["skipped"]}
    if {OURS, FLOAT} <= set(found):
        result["ratio_fp32_to_int8"] = found[FLOAT]["ratio_to_int8"]
        result["ratio_fp32_to_int8_of_medians"] = found[FLOAT]["ratio_to_int8_of_medians"]
        result["ratio_fp32_to_int8_of_sizes"] = found[FLOAT]["file_bytes"] / found[OURS]["file_bytes"]
    return result


def largest_difference(logits: list[list[float]], reference: list[list[float]]) -> float:
    """Return the largest absolute difference of a logit."""
    pairs = zip(logits, reference, strict=True)
    return max(abs(a - b) for row, other in pairs for a, b in zip(row, other, strict=True))


def agreement(answers: list[Any], reference: list[Any]) -> float:
    """Return the share of rows with the same label, or with scores within 0.05."""
    same: list[bool] = [
        a == b if isinstance(a, str) else abs(a - b) <= 0.05 for a, b in zip(answers, reference, strict=True)
    ]
    return sum(same) / len(same)


def goals(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each goal with what was measured, once for each place where it applies."""
    found = []
    for place, rival, wanted in _GOALS:
        parts = report["splits"] if place == "dev" else {place: report["shapes"].get(place)}
        found += [_goal(name, part, rival, wanted) for name, part in parts.items()]
    place, wanted_size = _SIZE_GOAL
    sizes = (report["shapes"].get(place) or {}).get("ratio_fp32_to_int8_of_sizes")
    met = None if sizes is None else sizes >= wanted_size
    found.append({"goal": f"{place.partition(':')[0]}: file size, float32 / INT8", "wanted": wanted_size,
                  "measured": sizes, "of_medians": None, "of_cpu": None, "met": met})  # fmt: skip
    return found


def _goal(place: str, part: Mapping[str, Any] | None, rival: str, wanted: float) -> dict[str, Any]:
    """Compare the best of a rival's lines, in float32 where it is not in integers, with the better of our engines."""
    contenders = part["contenders"] if part else {}
    theirs = [name for name in contenders if name.startswith(rival) and not name.endswith("bf16")]
    ours = [name for name in ENGINES if name in contenders]
    goal = f"{place}: {rival} / the better of our engines"
    if not theirs or not ours:
        return {"goal": goal, "wanted": wanted, "measured": None, "of_medians": None, "of_cpu": None, "met": None}

    def ratio(key: str) -> float:
        best, other = (min(contenders[name][key] for name in names) for names in (ours, theirs))
        return float(other / best)

    least = ratio("min_ms")
    of_others = {"of_medians": ratio("p50_ms"), "of_cpu": ratio("cpu_median_ms")}
    return {"goal": goal, "wanted": wanted, "measured": least, **of_others, "met": least >= wanted}


def render(report: Mapping[str, Any]) -> None:
    """Print tables."""
    for title, part in (*report["shapes"].items(), *report["splits"].items()):
        calls = {found["n_calls"] for found in part["contenders"].values()}
        print(f"\n{title}, {part['n_rows']} rows a call, {'/'.join(map(str, sorted(calls)))} calls, interleaved; ms")
        heads = ("min", "p50", "p90", "p99", "rows/s", "CPU min", "CPU p50", "peak MB", "file MB", "x INT8", "of p50")
        what = "agree" if title in report["splits"] else "logits"
        print(f"{'':40s}" + "".join(f"{head:>9s}" for head in (*heads, what)))
        for name, found in part["contenders"].items():
            print(f"{name:40s}" + "".join(_cells(found)))
        for name, reason in part["skipped"].items():
            print(f"{name:40s}  left out: {reason}")
    for size, differences in report["batches"].items():
        print(f"\n{size}: 32 rows alone and in one padded batch, largest difference of a logit")
        for name, difference in differences.items():
            print(f"{name:40s}{difference:9.1e}")
    print(f"\n{'goal':100s}{'wanted':>8s}{'found':>8s}{'of p50':>8s}{'of CPU':>8s}")
    for goal in report["goals"]:
        numbers = "".join(
            "       –" if goal[key] is None else f"{goal[key]:8.3f}" for key in ("measured", "of_medians", "of_cpu")
        )
        verdict = {True: "met", False: "NOT MET", None: "not measured"}[goal["met"]]
        print(f"{goal['goal']:100s}{goal['wanted']:8.2f}{numbers}  {verdict}")
    machine = report["machine"]
    print(f"\n{machine['cpu']} ({machine['n_cpus']} CPUs, {' '.join(machine['flags'])}), {report['threads']} threads")
    for env, versions in report["versions"].items():
        print(f"{env}: {', '.join(f'{name} {number}' for name, number in versions.items())}")
    print(f"seed {report['seed']}, {report['batch_size']} rows a batch on dev splits")


def _cells(found: Mapping[str, Any]) -> list[str]:
    places = 2 if found["min_ms"] < 100 else 0
    cells = [f"{found[key]:9.{places}f}" for key in ("min_ms", "p50_ms", "p90_ms", "p99_ms")]
    cells += [f"{found['rows_a_second']:9.1f}"]
    cells += [f"{found[key]:9.{places}f}" for key in ("cpu_min_ms", "cpu_median_ms")]
    cells += [f"{found['peak_memory_mb']:9.0f}", f"{found['file_bytes'] / 1e6:9.1f}"]
    ratios = (found.get(key) for key in ("ratio_to_int8", "ratio_to_int8_of_medians"))
    cells += ["        –" if ratio is None else f"{ratio:9.2f}" for ratio in ratios]
    check = found.get("agreement", found.get("logit_difference"))
    return [*cells, "        –" if check is None else f"{check:9.4f}"]


def main() -> None:
    """Read the times from stdin and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    report: dict[str, Any] = json.load(sys.stdin)
    shapes, splits = report["shapes"], report["splits"]
    report["shapes"] = {name: figures(part, largest_difference, "logit_difference") for name, part in shapes.items()}
    report["splits"] = {name: figures(part, agreement, "agreement") for name, part in splits.items()}
    report["goals"] = goals(report)
    if args.json:
        print(json.dumps(report))
    else:
        render(report)


if __name__ == "__main__":
    main()
