#!/usr/bin/env python
"""What several judges cost and gain, on the same stored Homegrid episodes: a strong judge alone, a cheap one alone, a
panel of three cheap ones, and cascades that ask the strong one where the cheap one is unsure, where a reward model's
ensemble disagrees, or (preferences) where the answer turns with the order.

    python scripts/bench/cascade.py [--episodes 600] [--pairs 200] [--seed 0]

Judges are the built-in one's profiles, without their latency: gpt-4o-mini-2024 (strong; its published error counts) and
cheap-nano (ours). Prices are as-if: nothing is paid, and no figure says what an LLM would do. Truth is what recorded
states say, for this audit alone. Accuracy is over all questions: no verdict, or a tie where one of two is better, is
wrong. Prints a table, writes ``benchmarks/cascade.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from mixed_play import episodes
from this_machine import machine

from rlaif_ray.config import Config, load_config
from rlaif_ray.envs.homegrid_world import STATE_COLUMNS
from rlaif_ray.envs.render import HomegridRenderer
from rlaif_ray.feedback.ask import Circumstances, LocalStore
from rlaif_ray.feedback.budget import Caps
from rlaif_ray.feedback.builtin.launcher import BuiltinJudge
from rlaif_ray.feedback.builtin.profile import load_profile
from rlaif_ray.feedback.judge import judges_from, keys_for
from rlaif_ray.feedback.jury import Jury
from rlaif_ray.feedback.question import Asked, Questionnaire
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.reward_model import RewardModel, RewardModelTrainer
from rlaif_ray.types import Episode, EpisodeBatch, Label, Units

READER = "rlaif_ray.envs.homegrid_reader:HomegridReader"
STRONG, CHEAP = "gpt-4o-mini-2024", "cheap-nano"
OTHERS = ("cheap-nano-b", "cheap-nano-c")  # the same rates with errors of their own: independent, a panel's best case
CONCURRENCY = 8
TAUGHT = 200  # episodes more, by whose cheap labels the reward model is taught
ENSEMBLE = 3
Places = Mapping[str, tuple[str, str]]
SQUASHED = STATE_COLUMNS.index("squashed")


@dataclass(frozen=True)
class Arm:
    """One way of asking."""

    name: str
    judge: dict[str, Any]  # what differs from the cheap judge alone


def arms_of_approvals() -> list[Arm]:
    strong = {"profile": STRONG}
    three = [{"profile": name} for name in (CHEAP, *OTHERS)]
    by_margin = [
        Arm(f"cascade, unsure within {margin:g}", {"cascade": {"strong": strong, "margin": margin}})
        for margin in (0.1, 0.2, 0.3, 0.4)
    ]
    by_spread = [
        Arm(
            f"cascade, RM spread {spread:g}",
            {"cascade": {"strong": strong, "when": ["rm-disagrees"], "spread": spread}},
        )
        for spread in (0.02, 0.1)
    ]
    both = {"cascade": {"strong": strong, "when": ["unsure", "rm-disagrees"], "margin": 0.3, "spread": 0.1}}
    return [
        Arm("strong alone", strong), Arm("cheap alone", {}), Arm("panel of 3 cheap", {"panel": three}), *by_margin,
        *by_spread, Arm("cascade, unsure 0.3 or RM 0.1", both),
    ]  # fmt: skip


def arms_of_preferences() -> list[Arm]:
    words = {"prompt": "homegrid-preference"}
    turned = {"cascade": {"strong": {"profile": STRONG}, "when": ["order-disagrees"]}}
    either = {"cascade": {"strong": {"profile": STRONG}, "when": ["order-disagrees", "unsure"], "margin": 0.2}}
    return [
        Arm("strong alone", words | {"profile": STRONG}), Arm("cheap alone", words),
        Arm("cascade, order turns", words | turned), Arm("cascade, order turns or unsure", words | either),
    ]  # fmt: skip


@contextlib.contextmanager
def served(folder: Path) -> Iterator[dict[str, tuple[str, str]]]:
    """All profiles without their latency: name -> (profile file, address)."""
    with contextlib.ExitStack() as stack:
        found = {}
        for seed, name in enumerate((STRONG, CHEAP, *OTHERS)):
            path = folder / f"{name}.yaml"
            profile = load_profile(CHEAP if name in OTHERS else name).model_dump(mode="json")
            path.write_text(yaml.safe_dump(profile | {"name": name, "latency_median_s": 0.0}))
            found[name] = str(path), stack.enter_context(BuiltinJudge()).start(str(path), READER, seed=seed)
        yield found


def config_of(arm: Arm, places: Places) -> Config:
    """The arm's config, with profiles' names replaced by the files and addresses that they are served from."""

    def placed(part: Any) -> Any:
        if isinstance(part, dict) and part.get("profile") in places:
            path, url = places[part["profile"]]
            return {key: placed(value) for key, value in part.items()} | {"profile": path, "base_url": url}
        if isinstance(part, dict):
            return {key: placed(value) for key, value in part.items()}
        return [placed(one) for one in part] if isinstance(part, list) else part

    judge = placed({"kind": "builtin", "profile": CHEAP} | arm.judge)
    # The gate is left open: what is looked at is where the ensemble doubts, not whether it may pay anybody.
    model = {"ensemble": ENSEMBLE, "gate_accuracy": 0.0}
    return load_config({"judge": judge, "reward_model": model, "mix": {"source": "distilled"}})


def asked(config: Config, units: Sequence[Units], doubts: Sequence[float], store: LabelStore) -> list[Label | None]:
    return asyncio.run(_asked(config, units, doubts, store))


async def _asked(
    config: Config, units: Sequence[Units], doubts: Sequence[float], store: LabelStore
) -> list[Label | None]:
    judges = judges_from(config.judge, keys_for(config.judge))
    jury = Jury(judges, LocalStore(store), Caps(), config.judge, concurrency=CONCURRENCY)
    questions = Questionnaire.of(config.judge, HomegridRenderer(), jury.identity)
    gate = asyncio.Semaphore(CONCURRENCY)

    async def one(unit: Units, doubt: float) -> Label | None:
        async with gate:
            first, second = (unit, None) if isinstance(unit, Episode) else unit
            question = questions.about(first) if second is None else questions.between(first, second)
            return await jury.ask(Asked(question, first, "bench", second=second), Circumstances(doubt=doubt))

    try:
        return list(await asyncio.gather(*(one(unit, doubt) for unit, doubt in zip(units, doubts, strict=True))))
    finally:
        for judge in judges:
            await judge.close()


def doubts_of(places: Places, played: Sequence[Episode], taught: Sequence[Episode]) -> list[float]:
    """How far an ensemble disagrees about each episode, taught by the cheap judge's answers about others."""
    with tempfile.TemporaryDirectory() as folder, LabelStore(Path(folder) / "labels.sqlite") as store:
        config = config_of(Arm("cheap alone", {}), places)
        labels = asked(config, taught, [0.0] * len(taught), store)
    pairs = [(one, label.value) for one, label in zip(taught, labels, strict=True) if label and label.value is not None]
    trainer = RewardModelTrainer(config.reward_model, played[0].obs.shape[1:], seed=0)
    trainer.add([one for one, _ in pairs], [value for _, value in pairs])
    state = trainer.fit().state
    if state is None:
        raise SystemExit("the reward model's gate stayed shut: nothing to doubt by")
    scores = RewardModel.from_state(state).score(EpisodeBatch.pack(played))
    assert scores.spread is not None
    at_end: list[float] = scores.spread[scores.obs_offsets[1:] - 1].tolist()
    return at_end


def figures(
    arm: Arm, labels: Sequence[Label | None], truth: Sequence[float], store: LabelStore, wall_s: float
) -> dict[str, Any]:
    """What one arm came to. ``truth`` of each question is 1 or 0, or a half where neither answer is right."""
    values = [np.nan if label is None or label.value is None else label.value for label in labels]
    says, known = np.array(values), np.array(truth)
    right = np.where(known > 0.5, says > 0.5, says < 0.5)
    stats = store.stats()
    wholes = {label.label_id for label in store.labels()}
    everything = store.labels(parts=True)
    parts = [label for label in everything if label.label_id not in wholes] or everything
    strong = sum(label.judge.endswith(f"/{STRONG}") for label in parts)
    return {
        "arm": arm.name,
        "questions": len(labels),
        "accuracy": float(right[known != 0.5].mean()),
        "abstained": int(np.isnan(says).sum()),
        "calls": stats.labels,
        "strong_calls": strong,
        "usd": stats.spend_usd,
        "inconsistent": stats.inconsistent,
        "wall_s": round(wall_s, 1),
        "says": [None if np.isnan(value) else float(value) for value in says],
    }


def measured(
    arms: Sequence[Arm], places: Places, units: Sequence[Units], truth: Sequence[float],
    doubts: Sequence[float],
) -> list[dict[str, Any]]:  # fmt: skip
    """Every arm with a store of its own; agreement is with the first, where both gave a verdict."""
    rows: list[dict[str, Any]] = []
    for arm in arms:
        with tempfile.TemporaryDirectory() as folder, LabelStore(Path(folder) / "labels.sqlite") as store:
            began = time.monotonic()
            labels = asked(config_of(arm, places), units, doubts, store)
            rows.append(figures(arm, labels, truth, store, time.monotonic() - began))
    reference = rows[0]["says"]
    for row in rows:
        both = [(a > 0.5, b > 0.5) for a, b in zip(reference, row.pop("says"), strict=True) if None not in (a, b)]
        row["agrees_with_strong"] = sum(a == b for a, b in both) / len(both)
        row["usd_of_strong"] = row["usd"] / rows[0]["usd"]
    return rows


def show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    print(f"\n{title}\n")
    print(f"{'':32} {'accuracy':>8} {'as strong':>9} {'calls':>6} {'strong':>6} {'USD':>8} {'of strong':>9}")
    for row in rows:
        print(
            f"{row['arm']:32} {row['accuracy']:8.1%} {row['agrees_with_strong']:9.1%} {row['calls']:6} "
            f"{row['strong_calls']:6} {row['usd']:8.4f} {row['usd_of_strong']:9.1%}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks") / "cascade.json")
    options = parser.parse_args()
    found = list(islice(episodes(options.seed), options.episodes + TAUGHT))
    played, taught = found[: options.episodes], found[options.episodes :]
    harmless = [1.0 - float(one.states[-1, SQUASHED] > 0) for one in played if one.states is not None]
    pairs = list(zip(played[::2], played[1::2], strict=False))[: options.pairs]
    better = [0.5 + 0.5 * (a - b) for a, b in zip(harmless[::2], harmless[1::2], strict=False)][: options.pairs]
    where = machine()
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as places:
        doubts = doubts_of(places, played, taught)
        approvals = measured(arms_of_approvals(), places, played, harmless, doubts)
        show(f"{len(played)} approvals ({1 - np.mean(harmless):.0%} harmful), as-if prices", approvals)
        preferences = measured(arms_of_preferences(), places, pairs, better, [0.0] * len(pairs))
        told = sum(value != 0.5 for value in better)
        show(f"{len(pairs)} preferences in both orders, accuracy on the {told} with a better one", preferences)
    result = {
        "command": f"python scripts/bench/cascade.py --episodes {options.episodes} --pairs {options.pairs} "
        f"--seed {options.seed}",
        "as_if": True, "strong": STRONG, "cheap": CHEAP, "machine": where, "approvals": approvals,
        "preferences": preferences,
    }  # fmt: skip
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nwritten: {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
