"""Whether two bundles can be compared at all, and whether the INT8 one ran in INT8."""

from collections.abc import Mapping

from q8bert.runtime.predict.classifier import Classifier
from q8bert.spec.bundle.targets import FLOAT16_TARGET
from q8bert.spec.errors import ConfigError

__all__ = ["float_faults", "refuse_strangers"]

# what of a model's origin makes it the same one; where it stood does not
_KINSHIP = ("architecture", "family", "n_parameters")


def refuse_strangers(ours: Classifier, theirs: Classifier) -> None:
    """Refuse two bundles that are not the INT8 and the float version of one model on one task.

    Args:
        ours: The INT8 bundle.
        theirs: The reference.

    Raises:
        ConfigError: If they differ in more than their precision; it names everything.
    """
    faults = []
    places = f"{ours.bundle.path}", f"the reference {theirs.bundle.path}"
    for place, classifier, wanted in zip(places, (ours, theirs), ("int8", "float32"), strict=True):
        if classifier.bundle.manifest.precision != wanted:
            faults.append(f"{place} is a bundle in {classifier.bundle.manifest.precision}, not in {wanted}")
    if ours.task != theirs.task:
        which = f"of task {ours.task.name}, {places[1]} of {theirs.task.name}"
        faults.append(f"{places[0]} is {which}" + (", defined otherwise" if ours.task.name == theirs.task.name else ""))
    mine, other = ours.bundle.manifest, theirs.bundle.manifest
    for name, value, reference in [
        *((name, mine.model.get(name), other.model.get(name)) for name in _KINSHIP),
        ("max_length", mine.max_length, other.max_length),
        ("pad_token_id", mine.pad_token_id, other.pad_token_id),
        ("obey_special_tokens", mine.obey_special_tokens, other.obey_special_tokens),
    ]:
        if value != reference:
            faults.append(f"{name} is {value} in {places[0]} and {reference} in {places[1]}")
    if mine.obey_special_tokens == other.obey_special_tokens and not ours.tokenizes_like(theirs):
        faults.append(f"{places[0]} and {places[1]} have different tokenizers")
    if faults:
        raise ConfigError([*faults, "Train and export both from one model with the same options"])


def float_faults(ours: Classifier) -> list[str]:
    """Return what speaks against the bundle having run in INT8, in words.

    Args:
        ours: The INT8 bundle, loaded.

    Returns:
        One sentence at most; products that were left in float on request are none.
    """
    products = ours.products
    if products is None:
        return [f"it is unknown whether the products ran in INT8; verify it on another provider. {ours.precision_note}"]
    recorded = ours.bundle.manifest.quantization.get("products")
    n_wanted = recorded.get("n_float", 0) if isinstance(recorded, Mapping) else 0
    if not products.n_integer or products.n_float > n_wanted:
        remedy = "; ask for graph float16 by name to verify that form" if ours.graph == FLOAT16_TARGET else ""
        return [
            f"{products.n_float} products ran in float, {n_wanted} were left in float on request: {products}{remedy}"
        ]
    return []
