"""``docs/BENCHMARKS.md`` from the stored results: every table with its command, machine and date."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TITLES = {
    "learners": "Training, the same network and hyperparameters",
    "published": "Against Stable-Baselines3 with the published settings",
    "feedback": "What feedback costs the training loop",
    "growth": "Growth",
    "memory": "Memory over a long run",
    "gpu": "On a GPU",
}
HEAD = """# Benchmarks

Made by `.venv/bin/python scripts/bench` (extra `bench`); what stands here is what was measured, on the machine named.
Contenders take turns block by block; a block is one batch of 8,192 steps, sampled and learned from. Steps a second are
medians (lowest to highest); ratios are medians of blocks next to each other in time.
"""


def write(results: Path, page: Path) -> None:
    page.parent.mkdir(exist_ok=True)
    page.write_text(text(results))


def text(results: Path) -> str:
    parts = [HEAD]
    for suite, title in TITLES.items():
        found = _read(results, suite)
        if found is not None:
            parts.append(_section(title, found))
    return "\n".join(parts)


def ratios(results: Path, suite: str) -> dict[str, dict[str, Any]]:
    found = _read(results, suite)
    return {} if found is None else dict(found["ratios"])


def _read(results: Path, suite: str) -> dict[str, Any] | None:
    path = results / f"speed-{suite}.json"
    return json.loads(path.read_text()) if path.exists() else None


def _section(title: str, found: dict[str, Any]) -> str:
    on = found["machine"]
    load = on["load_at_start"][0]
    lines = [
        f"## {title}\n",
        f"`{found['command']}`, {on['when']}, {on['cores']} cores ({on['processor']}), load {load} when it began.\n",
    ]
    if "not_run" in found:
        return "\n".join([*lines, f"Not run: {found['not_run']}.\n"])
    if found["contenders"]:
        lines += ["| | steps/s | blocks |", "|---|---|---|"]
        lines += [
            f"| {name} | {c['median']:,.0f} ({c['low']:,.0f} to {c['high']:,.0f}) | {c['blocks']} |"
            for name, c in found["contenders"].items()
        ]
        lines.append("")
    if found["ratios"]:
        lines += ["| ratio | median | lowest to highest | pairs |", "|---|---|---|---|"]
        lines += [
            f"| {name}{_of(r)} | **{r['median']:.2f}** | {r['low']:.2f} to {r['high']:.2f} | {r['pairs']} |"
            for name, r in found["ratios"].items()
        ]
        lines.append("")
    lines += _limits(found.get("limits", {}))
    if "memory_gb" in found:
        lines.append("GB: " + ", ".join(f"{mark} {gb:.3f}" for mark, gb in found["memory_gb"].items()) + "\n")
    return "\n".join(lines)


def _of(ratio: dict[str, Any]) -> str:
    return f" ({ratio['of'][0]}; {ratio['of'][1]})" if "of" in ratio else ""


def _limits(limits: dict[str, Any]) -> list[str]:
    return [
        f"`{network}`: the plain network's operations alone ({one['operations_per_sample'] / 1e6:.2f} million a "
        f"sample and pass) would allow {one['steps_per_s_at_that_rate']:,.0f} steps/s at the "
        f"{one['gflops_of_a_product']:.0f} GFLOP/s of a large matrix product here; ours does "
        f"{one['ours_over_it']:.2f} times that.\n"
        for network, one in limits.items()
    ]
