"""``docs/BENCHMARKS.md`` from the stored results: every table with its command, machine and date."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TITLES = {
    "learners": "Training, the same network and hyperparameters",
    "published": "Against Stable-Baselines3 with the published settings",
    "quality": "Wall time to a given quality",
    "breakdown": "Where an iteration's time goes",
    "feedback": "What feedback costs the training loop",
    "growth": "Growth",
    "memory": "Memory over a long run",
    "overlap": "Sampling one update ahead",
    "gpu": "On a GPU",
    "compile": "torch.compile",
    "before": "Learning as before",
}
HEAD = """# Benchmarks

Made by `.venv/bin/python scripts/bench` (extra `bench`); what stands here is what was measured, on the machine named.
Contenders take turns of a few seconds; a turn is of whole batches of 8,192 steps, sampled and learned from. Steps a
second are medians (lowest to highest); ratios are medians of turns next to each other in time. Threads are those of
the process that learns, set and read back.
"""


def write(results: Path, page: Path) -> None:
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text(results))


def text(results: Path) -> str:
    parts = [HEAD]
    for suite, title in TITLES.items():
        found = read(results, suite)
        if found is not None:
            parts.append(_section(title, found))
    return "\n".join(parts)


def ratios(results: Path, suite: str) -> dict[str, dict[str, Any]]:
    found = read(results, suite)
    return {} if found is None else dict(found["ratios"])


def read(results: Path, suite: str) -> dict[str, Any] | None:
    path = results / f"speed-{suite}.json"
    return json.loads(path.read_text()) if path.exists() else None


def _section(title: str, found: Mapping[str, Any]) -> str:
    on = found["machine"]
    lines = [
        f"## {title}\n",
        f"`{found['command']}`, {on['when']}, {on['cores']} cores ({on['processor']}), {on['memory_gb']} GB, torch "
        f"{on['torch']}, ray {on['ray']}, load {on['load_at_start'][0]} when it began.\n",
    ]
    if not found.get("finished", True):
        lines.append("Stopped before its last round: figures are of the rounds there are.\n")
    if "not_run" in found:
        return "\n".join([*lines, f"Not run: {found['not_run']}.\n"])
    lines += _contenders(found["contenders"])
    if found["ratios"]:
        rows = [[f"{name}{_of(r)}", _median(r), f"{r['low']:.2f} to {r['high']:.2f}", r["pairs"]]
                for name, r in found["ratios"].items()]  # fmt: skip
        lines += grid(["ratio", "median", "lowest to highest", "pairs"], rows)
    lines += _limits(found.get("limits", {}))
    for table in found.get("tables", []):
        lines += [f"### {table['title']}\n"] if table.get("title") else []
        lines += grid(table["head"], table["rows"])
        lines += [f"{table['note']}\n"] if table.get("note") else []
    if "reward_model_given" in found:
        model = found["reward_model_given"]
        lines.append(
            f"The reward model given was fitted once, on {model['labels']} labels of the built-in judge (profile "
            f"`gpt-4o-mini-2024`), {model['heldout_n']} of them held out: {model['heldout_accuracy']:.1%} of those "
            "right.\n"
        )
    return "\n".join(lines)


def grid(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> list[str]:
    """A table's lines in Markdown, and an empty one."""
    lines = ["| " + " | ".join(map(str, head)) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(map(cell, row)) + " |" for row in rows), ""]


def cell(value: Any) -> str:
    """A number with as many digits as say something; words as they are; nothing where nothing was measured."""
    if value is None:
        return ""
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _contenders(contenders: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = [
        [name, f"{c['median']:,.0f} ({c['low']:,.0f} to {c['high']:,.0f})", c.get("threads"), c["blocks"]]
        for name, c in contenders.items()
    ]
    return grid(["", "steps/s", "threads", "turns"], rows) if rows else []


def _median(ratio: Mapping[str, Any]) -> str:
    return f"**{'>= ' if ratio.get('at_least') else ''}{ratio['median']:.2f}**"


def _of(ratio: Mapping[str, Any]) -> str:
    return f" ({ratio['of'][0]}; {ratio['of'][1]})" if "of" in ratio else ""


def _limits(limits: Mapping[str, Any]) -> list[str]:
    rows = [
        [network, one["operations_per_sample"] / 1e6, by["of"], by["gflops"], by["steps_per_s"], by["ours_over_it"]]
        for network, one in limits.items()
        for by in one["products"]
    ]
    head = ["", "million operations a sample", "product", "GFLOP/s", "steps/s it allows", "ours over it"]
    note = (
        "What the plain network's operations alone, forward and backward, would allow at the rate of a large product "
        "on the same cores: as PyTorch makes it, and as ours does (by oneDNN where that is faster, "
        "`rlaif_ray/products.py`). Above 1 no plain network can be. What is missing to the rate of our product: the "
        "learner has one core, the other samples ahead and then waits; a learner with both is slower (rows above)."
    )
    return [*grid(head, rows), f"{note}\n"] if rows else []
