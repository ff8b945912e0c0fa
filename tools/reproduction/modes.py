"""The ways to come to a model that are compared: each is a few options of a `q8bert` command."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise

from q8bert.training.runs.float_steps import later_options

__all__ = ["FLOAT", "MODES", "Mode", "chosen_modes"]


@dataclass(frozen=True)
class Mode:
    """One way to come to a model.

    Attributes:
        name: Its name in files and tables.
        title: What it is, in a few words.
        train: Options of `q8bert train` besides those of all; None for what is made of the FP32 run.
        export: How the FP32 run becomes a bundle without training: the command and its options.
        peer: Another project's way, where that is installed: a script of this folder's parent that is given the FP32
            bundle and writes the logits; empty for ours and ONNX Runtime's.
        needs: The package that it needs.
        has_own_float_steps: Whether its options change the steps before quantization starts too, so that they are not
            those of the FP32 run.
    """

    name: str
    title: str
    train: tuple[str, ...] | None = None
    export: tuple[str, ...] = ("export",)
    peer: str = ""
    needs: str = ""
    has_own_float_steps: bool = False


FLOAT = Mode("fp32", "the float twin: as many steps, as many candidates for the best", train=("--no-quantize",))
MODES = (
    FLOAT,
    Mode("one-shot", "the FP32 run by `q8bert quantize`, without training", export=("quantize",)),
    Mode("ort-dynamic", "the FP32 run by ONNX Runtime's dynamic quantization",
         export=("export", "--quantization", "dynamic")),
    Mode("ort-static", "the FP32 run by ONNX Runtime's static quantization",
         export=("export", "--quantization", "static")),
    Mode("nncf", "the FP32 bundle by NNCF's quantization after training, on OpenVINO",
         peer="nncf_peer.py", needs="nncf"),
    Mode("qat", "quantization-aware training, the defaults", train=()),
    Mode("qat-distilled", "quantization-aware training with the float model at its switch as teacher",
         train=("--teacher", "twin")),
)  # fmt: skip


def chosen_modes(
    names: Sequence[str], variants: Sequence[Sequence[str]], one_shot_variants: Sequence[Sequence[str]] = ()
) -> tuple[Mode, ...]:
    """Return the modes that were asked for, the float twin always among them.

    Args:
        names: Names of modes; none for all that can be had here.
        variants: Pairs of a name and options of `q8bert train`, as a shell would read them.
        one_shot_variants: Pairs of a name and options of `q8bert quantize`.

    Returns:
        The modes, the float twin first.

    Raises:
        ValueError: If a name is unknown or given twice, or what it needs is not installed.
    """
    known = {mode.name: mode for mode in MODES}
    added = [_variant(name, tuple(shlex.split(options))) for name, options in variants]
    for name, options in one_shot_variants:
        added.append(Mode(name, f"q8bert quantize {options}", export=("quantize", *shlex.split(options))))
    given = [*known, *(mode.name for mode in added)]
    taken = sorted({mode.name for mode in added if given.count(mode.name) > 1})
    unknown = [name for name in names if name not in known]
    if taken or unknown:
        raise ValueError(f"modes are {', '.join(known)}; unknown: {unknown or 'none'}, names taken: {taken or 'none'}")
    asked = [known[name] for name in (names or _installed(known)) if name != FLOAT.name]
    if absent := [mode.needs for mode in asked if mode.needs and find_spec(mode.needs) is None]:
        raise ValueError(f"{', '.join(absent)} is not installed; `pip install --group peers` brings it")
    return (FLOAT, *asked, *added)


def _variant(name: str, options: tuple[str, ...]) -> Mode:
    """Return a way to train; its float steps are those of the FP32 run where its options do not reach them."""
    # another start of quantization needs a checkpoint that the FP32 run may not have
    shared = {"--" + known.replace("_", "-") for known in later_options()} - {"--quantize-from"}
    names = [text.replace("--no-", "--", 1) for text in options if text.startswith("--")]
    has_own = any(given not in shared for given in names) or dict(pairwise(options)).get("--teacher", "twin") != "twin"
    return Mode(name, f"q8bert train {shlex.join(options)}", train=options, has_own_float_steps=has_own)


def _installed(known: Mapping[str, Mode]) -> list[str]:
    return [name for name, mode in known.items() if not mode.needs or find_spec(mode.needs) is not None]
