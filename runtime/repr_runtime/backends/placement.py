"""What ONNX Runtime made of a graph on a GPU: which of its nodes run there, and in what arithmetic."""

from collections import Counter
from typing import Any

RECORD = "session.record_ep_graph_assignment_info"
"""The entry of its configuration with which it remembers where each node went."""


def remark(session: Any, *, tf32: bool) -> str:
    """Whether TF32 is allowed, and how many nodes run elsewhere than on its first provider.

    The library gives a node that the provider has no kernel for to the CPU without a word. Says
    nothing of nodes where the library is too old to tell.
    """
    said = f", TF32 {'allowed' if tf32 else 'off'}"
    placed = _placed(session)
    first, *_ = session.get_providers()
    if elsewhere := {name: count for name, count in placed.items() if name != first}:
        where = ", ".join(f"{count} on {name}" for name, count in elsewhere.items())
        said += f", of {placed.total()} nodes {where}"
    return said


def _placed(session: Any) -> Counter[str]:
    """How many nodes each provider runs."""
    found: Counter[str] = Counter()
    try:
        for part in session.get_provider_graph_assignment_info():
            found[str(part.ep_name)] += len(part.get_nodes())
    except Exception:  # AttributeError before 1.24; whatever else it is, it is no reason not to run
        return Counter()
    return found
