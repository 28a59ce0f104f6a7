"""What each arm is, told by the settings that it doesn't share with the reference, and which runs are one run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from homegrid_study.arms import Step
from homegrid_study.stored import REFERENCE, Results

__all__ = ["alike", "arms"]

# Nothing of an arm: its seed, how often its state is kept, and digests of files whose names stand beside them.
NOT_OF_AN_ARM = ("run.seed", "judge.seed", "run.checkpoint_every_s", "profiles", "prompt", "begins with ")


def arms(results: Results) -> str:
    """A list by file: what differs from the reference in all its arms, then in each; and by which code it was run."""
    first: dict[tuple[str, str], Step] = {}
    for step in results.steps:
        if step.kind == "train":
            first.setdefault((step.study, step.arm), step)
    reference = first[REFERENCE].settings
    lines = []
    for study in dict.fromkeys(study for study, _ in first):
        apart = {step.arm: _apart(step.settings, reference) for key, step in first.items() if key[0] == study}
        shared = _shared(apart.values())
        lines.append(f"- **{study}**" + (f": {_said(shared)}" if shared else ""))
        for arm, own in apart.items():
            begins = [f"`{key.rpartition('-s')[0].rpartition('/')[2]}`" for key in first[study, arm].needs]
            parts = [f"begins with {' and '.join(begins)}"] if begins else []
            parts += [said] if (said := _said({k: v for k, v in own.items() if k not in shared})) else []
            code = sorted({one["code"] for one in results.rows[study, arm].ended if one["code"]})
            parts += [f"code {', '.join(code)}"] if code else []
            lines.append(f"  - `{arm}`" + (f": {'; '.join(parts)}" if parts else ""))
    return "\n".join(lines) + "\n"


def alike(results: Results) -> str:
    """Runs whose evaluations agree to the last digit in every world; '' where none do."""
    groups: dict[str, list[str]] = {}
    for row in results.trained():
        for one in row.ended:
            key = json.dumps(one["summary"]["evaluation"], sort_keys=True)
            groups.setdefault(key, []).append(f"`{one['key']}`")
    lines = [f"- {', '.join(keys)}" for keys in groups.values() if len(keys) > 1]
    return "\n".join(lines) + "\n" if lines else ""


def _apart(settings: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, str]:
    """Values that aren't the reference's, by dotted name; a run that asks nothing has none for what it would ask."""
    return {
        name: json.dumps(value).replace('"', "")
        for name, value in settings.items()
        if not name.startswith(NOT_OF_AN_ARM) and (name not in reference or reference[name] != value)
    }


def _shared(apart: Iterable[Mapping[str, str]]) -> dict[str, str]:
    first, *others = apart
    return {k: v for k, v in first.items() if all(other.get(k) == v for other in others)} if others else {}


def _said(settings: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())
