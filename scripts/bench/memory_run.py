"""Memory of a long run: of each kind of process after a million steps and after ten; copies of a batch on its way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from duel import started, tell
from plan import Plan, Row

__all__ = ["suite"]

# The quickest there is of ours on Homegrid: ten million steps in about a quarter of an hour on two cores.
QUICK: dict[str, Any] = {
    "kind": "ours", "network": "mlp", "threads": 1, "runners": 1, "resources": {"overlap": True},
}  # fmt: skip
LOOKS_EACH = 4  # looks in a million steps: one alone may fall on a moment before memory is given back


def suite(plan: Plan) -> Iterator[Row]:
    """One process for all of it: a run that was stopped begins again."""
    mark, marks = plan.size(1_000_000, 1_024), max(2, plan.times(10))
    one = started(plan, "memory", QUICK)
    looks: list[Row] = []
    try:
        copies = one.ask("copies")
        steps = 0
        for i in range(1, marks * LOOKS_EACH + 1):
            while steps < i * mark / LOOKS_EACH:
                steps += one.ask("train", steps=round(i * mark / LOOKS_EACH) - steps)["steps"]
            looks.append({"steps": steps, **one.memory_mb(), **one.ask("object_store")})
            tell(f"{steps:,} steps: {total(looks[-1]):.0f} MB")
            plan.journal.add("looks", looks[-1])
            if len(looks) > LOOKS_EACH:
                yield found(looks, mark, copies)
    finally:
        one.close()


def found(looks: Sequence[Row], mark: int, copies: Mapping[str, Any]) -> Row:
    """The last look over the first at or after ``mark`` steps, in all and by kind of process."""
    first = next(look for look in looks if look["steps"] >= mark)
    last = looks[-1]
    growth = total(last) / total(first)
    each = [total(look) for look in looks if look["steps"] >= mark]
    kinds = [kind for kind in first if kind not in ("steps", "object_store_mb", *TIMES)]
    return {
        "contenders": {},
        "ratios": {
            f"memory after {last['steps'] / 1e6:.1f} M steps / after {first['steps'] / 1e6:.1f} M": {
                "median": growth, "low": min(each) / total(first), "high": max(each) / total(first), "pairs": 1,
            }
        },
        "tables": [
            {
                "title": "MB by kind of process",
                "head": ["", f"{first['steps']:,} steps", f"{last['steps']:,} steps"],
                "rows": [[kind, first[kind], last.get(kind, 0.0)] for kind in (*kinds, "object_store_mb")],
                "note": "Proportional set size: what processes share, the object store's pages among it, is shared out "
                "among them and counted once. `object_store_mb` is what lies in Ray's object store at that moment. "
                "Lowest and highest are of all looks from the first on.",
            },
            copies_table(copies),
        ],
        "looks": list(looks),
    }  # fmt: skip


TIMES = ("seconds", "processor_s", "judge_processor_s", "reward_model_processor_s", "by_process", "threads", "cores")


def total(look: Mapping[str, Any]) -> float:
    """MB of all processes."""
    return float(sum(v for k, v in look.items() if k not in ("steps", "object_store_mb", *TIMES)))


def copies_table(copies: Mapping[str, Any]) -> Row:
    return {
        "title": "Copies of a batch's observations",
        "head": ["on the way", "copied"],
        "rows": [[name, "yes" if copied else "no"] for name, copied in copies["copied"].items()],
        "note": f"A batch's observations are {copies['batch_mb']:.1f} MB; at most {copies['peak_batches']:.1f} times "
        "that is allocated by NumPy in the driver while a batch becomes what the learner is given. Minibatches are "
        "rows of a digest, which is made once.",
    }
