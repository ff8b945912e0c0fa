"""Compare ways to keep INT8 products from saturating on CPUs without VNNI, by the error they leave in the weights.

``plain``          scales of the largest elements: the smallest error, and unsafe pairs
``pair scales``    what q8bert does: scales of the largest elements and sums of pairs; nothing is clamped
``shrink``         plain scales, every unsafe pair shrunk to the bound by the smallest change
``best of both``   plain scales times the factor that suits each row (or matrix) best, what is then unsafe shrunk
``reorder``        input features paired large with small, what is then unsafe shrunk
``7 bits``         codes −64…64: the usual cure

Errors are squared errors over squared weights, averaged over the Linear layers of the model.

    python tools/saturation_trade.py --model minilm-l6
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn

from q8bert.spec.saturation import MAX_PAIR_SUM, count_unsafe_pairs
from q8bert.training.models.source import load_source_model
from q8bert.training.quantization.fake_quantize import WeightGrid, weight_scale

FACTORS = [1 + 0.05 * step for step in range(21)]


def rounded(weight: Tensor, scale: Tensor, *, largest: int = 127) -> Tensor:
    """Return float codes of a weight ``(out, in)``."""
    return torch.round(weight / scale).clamp(-largest, largest)


def shrunk(codes: Tensor) -> Tensor:
    """Return codes with every unsafe pair moved to the bound, half of the excess from each of the two."""
    pairs = codes.view(codes.shape[0], -1, 2)
    sums = pairs.sum(-1)
    excess, sign = (sums.abs() - MAX_PAIR_SUM).clamp(min=0), sums.sign()
    moved = torch.stack([torch.ceil(excess / 2), torch.floor(excess / 2)], dim=-1)
    return (pairs - sign[..., None] * moved).view_as(codes)


def error(weight: Tensor, codes: Tensor, scale: Tensor) -> float:
    """Return the squared error of a quantized weight over its squared sum."""
    return float(((codes * scale - weight) ** 2).sum() / (weight**2).sum())


def row_errors(weight: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """Return the squared error of each row."""
    return ((codes * scale - weight) ** 2).sum(dim=1)


def reordered(weight: Tensor) -> Tensor:
    """Return a weight with its columns paired: the largest with the smallest, and so on."""
    order = weight.square().sum(dim=0).argsort()
    half = len(order) // 2
    return weight[:, torch.stack([order[:half], order.flip(0)[:half]], dim=1).flatten()]


def ways(weight: Tensor, *, per_channel: bool) -> dict[str, Callable[[], tuple[Tensor, Tensor, Tensor]]]:
    """Return each way as a function that gives weight, codes and scale."""
    plain = weight_scale(weight, WeightGrid(0 if per_channel else None))
    pairs = weight_scale(weight, WeightGrid(0 if per_channel else None, saturation_free=True))

    def best() -> tuple[Tensor, Tensor, Tensor]:
        scales = torch.stack([plain * factor for factor in FACTORS])
        errors = torch.stack([row_errors(weight, shrunk(rounded(weight, scale)), scale) for scale in scales])
        errors = errors if per_channel else errors.sum(dim=1, keepdim=True)
        scale = scales.gather(0, errors.argmin(dim=0)[None, :, None])[0]
        return weight, shrunk(rounded(weight, scale)), scale

    other = reordered(weight)
    return {
        "plain": lambda: (weight, rounded(weight, plain), plain),
        "pair scales": lambda: (weight, rounded(weight, pairs), pairs),
        "shrink": lambda: (weight, shrunk(rounded(weight, plain)), plain),
        "best of both": best,
        "reorder": lambda: (other, shrunk(rounded(other, plain)), plain),
        "7 bits": lambda: (weight, rounded(weight, plain * 127 / 64, largest=64), plain * 127 / 64),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm-l6", help="as for `q8bert train`")
    args = parser.parse_args()
    source = load_source_model(args.model, n_outputs=1, labels=(), max_length=128, dropout=None)
    weights = [module.weight.detach() for module in source.model.modules() if isinstance(module, nn.Linear)]
    weights = [weight for weight in weights if weight.shape[0] > 1]  # not the new head
    print("| scales | way | relative error, mean | of the worst matrix | unsafe pairs |\n|---|---|---|---|---|")
    for per_channel in (True, False):
        for name in ways(weights[0], per_channel=per_channel):
            found = [ways(weight, per_channel=per_channel)[name]() for weight in weights]
            errors = [error(*result) for result in found]
            n_unsafe = sum(count_unsafe_pairs(codes.t().to(torch.int8).numpy()) for _, codes, _ in found)
            share = n_unsafe / sum(weight.numel() // 2 for weight in weights)
            granularity = "per channel" if per_channel else "per tensor"
            mean = sum(errors) / len(errors)
            print(f"| {granularity} | {name} | {mean:.1e} | {max(errors):.1e} | {share:.3%} |", flush=True)


if __name__ == "__main__":
    main()
