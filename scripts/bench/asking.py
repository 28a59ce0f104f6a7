"""Asking the built-in judge about Homegrid episodes, for the benches: profiles with changes, configs, questions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from rlaif_ray.config import Config, load_config
from rlaif_ray.envs.render import HomegridRenderer
from rlaif_ray.feedback.ask import ask_all
from rlaif_ray.feedback.budget import Caps
from rlaif_ray.feedback.builtin.launcher import BuiltinJudge
from rlaif_ray.feedback.builtin.profile import load_profile
from rlaif_ray.feedback.judge import judge_from
from rlaif_ray.feedback.question import Asked, Questionnaire
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import Episode, Label

__all__ = ["PUBLISHED", "READER", "answered", "config_for", "labels_of", "questions", "variant"]

READER = "rlaif_ray.envs.homegrid_reader:HomegridReader"
PUBLISHED = "gpt-4o-mini-2024"  # answers after 3 to 6 s, with the published error rates


def variant(folder: Path, name: str, **changes: Any) -> str:
    """A shipped profile with changes, as a file."""
    path = folder / f"{name}-{'-'.join(changes)}.yaml"
    path.write_text(yaml.safe_dump(load_profile(name).model_dump(mode="json") | changes))
    return str(path)


def config_for(url: str, profile: str, more: dict[str, Any]) -> Config:
    """The preset's config, asked at this address, with no cap that matters."""
    return load_config("homegrid", {"judge.base_url": url, "judge.profile": profile, "budget.labels": 10**6,
                                    "budget.usd": 10**6, **more})  # fmt: skip


def questions(config: Config, some: Sequence[Episode]) -> list[Asked]:
    about = Questionnaire.of(config.judge, HomegridRenderer(), judge_from(config.judge, None).identity)
    return [Asked(about.about(episode), episode) for episode in some]


async def labels_of(config: Config, store: LabelStore, some: Sequence[Episode]) -> list[Label]:
    """The labels of these episodes, in the order in which they were answered."""
    judge = judge_from(config.judge, None)
    try:
        labels = await ask_all(judge, store, Caps(), questions(config, some), config=config.judge)
    finally:
        await judge.close()
    return [label for label in labels if label is not None]


def answered(folder: Path, some: Sequence[Episode], seed: int = 0) -> tuple[list[Episode], list[float]]:
    """Those that the built-in judge gave a verdict on, without its latency, and the verdicts' values."""
    profile = variant(folder, PUBLISHED, latency_median_s=0.0)
    with BuiltinJudge() as server, LabelStore(folder / "asked.sqlite") as store:
        config = config_for(server.start(profile, READER, seed=seed), profile, {})
        values = {label.episode_id: label.value for label in asyncio.run(labels_of(config, store, some))}
    judged = [one for one in some if values.get(one.episode_id) is not None]
    return judged, [float(values[one.episode_id] or 0.0) for one in judged]
