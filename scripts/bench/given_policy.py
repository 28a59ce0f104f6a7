"""One policy, half trained, that everybody acts by alike and nobody changes: what differs between contenders is then
what is done with their episodes, not which episodes they are (a policy that dawdles makes fewer and longer ones)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from duel import started, tell
from plan import Plan

__all__ = ["acting_by", "trained"]

STEPS = 500_000  # of the preset: it finds the fruit and has begun to spare the cat, so that verdicts are of both kinds
STILL = 1e-12  # a learning rate that does all of the learner's work and moves nothing


def trained(plan: Plan, given: str) -> str:
    """Folder of a policy of the preset, trained once with the reward model given."""
    folder = (plan.logs / "given-policy").absolute()
    if not (folder / "policy.pt").exists():
        tell("training the policy that all act by")
        one = started(plan, "policy", {"kind": "ours", "preset": "homegrid", "given": given, "runners": 1})
        try:
            one.ask("train", steps=plan.size(STEPS, 1))
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            one.ask("save", folder=str(folder))
        finally:
            one.close()
    return str(folder)


def acting_by(folder: str | Path) -> dict[str, Any]:
    """Sections of a contender's config; without such a folder it stays as it begins."""
    return {"ppo": {"lr": STILL, "lr_final": STILL}} | ({"run": {"init": str(folder)}} if folder else {})
