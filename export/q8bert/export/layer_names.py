"""How constants of layers that stand side by side in the graph are named: ``…self.query+key+value``."""

from collections.abc import Sequence

__all__ = ["layers_of", "one_name"]


def one_name(names: Sequence[str]) -> str:
    """Return one name for several layers: siblings ``a.query``, ``a.key`` and ``a.value`` are ``a.query+key+value``."""
    return names[0] + "".join(f"+{name.rpartition('.')[2]}" for name in names[1:])


def layers_of(name: str) -> list[str]:
    """Return the names of the layers that one name stands for."""
    first, *others = name.split("+")
    return [first, *(first.rpartition(".")[0] + "." + other for other in others)]
