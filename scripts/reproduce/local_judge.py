#!/usr/bin/env python
"""What a real language model of 135 M parameters is worth as a judge, and whether the reward model's gate knows.

    .venv/bin/python scripts/reproduce/local_judge.py [--episodes 500]

500 stored Homegrid episodes of a policy between random and shortest-path play, half of them with harm, are told in
three wordings, each also with a sock in the cat's place, and put to SmolLM2-135M (extra ``local-judge``, one thread).
Its log-odds of "good" against "bad" are compared with what happened: area under the curve with a bootstrap interval,
beside a list of bad words; with its answers named in one order or both; calibrated in four ways. Then the real reward
model is fitted to its verdicts. Every answer is stored as it comes: stopped, it goes on where it was.

Writes ``benchmarks/local-judge.json``; ``docs/LOCAL_JUDGE.md`` says what came of it. About half an hour.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import local_judge_figures as figures
import numpy as np

from rlaif_ray.columns import Acted, ColumnSampler, run_episodes
from rlaif_ray.config import JudgeConfig
from rlaif_ray.envs.homegrid import HomegridVectorEnv
from rlaif_ray.envs.homegrid_paths import shortest_actions
from rlaif_ray.envs.render import HomegridRenderer
from rlaif_ray.feedback.ask import ask_all
from rlaif_ray.feedback.budget import Caps
from rlaif_ray.feedback.judge import judge_from
from rlaif_ray.feedback.local import LocalModel
from rlaif_ray.feedback.logodds import LogOddsJudge
from rlaif_ray.feedback.prompt import Prompt, load_prompt
from rlaif_ray.feedback.question import Asked, Question, Questionnaire
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.machine import this_machine
from rlaif_ray.types import Array, Episode, Unit, Verdict

ENVS, MOST_RANDOM = 64, 0.6
SEED, SEED_OF_FRESH = 1, 2  # the prompt was chosen on episodes of seed 0
BLOCK = 50  # episodes asked about in every wording before the next ones: stopped early, what is there is complete
CONTENT_FREE = ("N/A", "...", "[no report]")
OTHER_BEGINNING = "That was"
OTHER_WORDINGS = ("event", "event-sock")
# Asked about the first so many alone: long, and the control of what tells nothing; a look beside the main question.
FEWER, FEWER_EPISODES, OTHER_EPISODES = ("coordinates-sock",), 200, 100


class Partly:
    """Shortest-path play with a share of random actions, each environment its own: 0 to ``MOST_RANDOM``."""

    def __init__(self, seed: int) -> None:
        self.rng, self.share = np.random.default_rng(seed), np.linspace(0.0, MOST_RANDOM, ENVS)

    def act(self, obs: Array) -> Acted:
        flat = obs.reshape(len(obs), -1, obs.shape[-1])
        robot, fruit = flat[..., 0].argmax(axis=1), flat[..., 1].argmax(axis=1)
        best = (shortest_actions()[fruit, robot] * self.rng.random((len(obs), 4))).argmax(axis=1)
        action = np.where(self.rng.random(len(obs)) < self.share, self.rng.integers(0, 4, len(obs)), best)
        zero = np.zeros(len(obs), np.float32)
        return Acted(action, action, zero, np.zeros((len(obs), 1), np.float32), zero)

    def values(self, obs: Array) -> Array:
        return np.zeros(len(obs), np.float32)


def play(number: int, seed: int) -> tuple[list[Episode], Array]:
    """So many episodes, the first half with harm and half without that were played, and (E,) bool: harm."""
    rollouts = run_episodes(ColumnSampler(HomegridVectorEnv(ENVS)), Partly(seed), 2 * number, seed=seed)
    episodes = [episode for rollout in rollouts for episode in rollout.episodes]
    harm = np.concatenate([rollout.truth.facts["cat_squashed"] for rollout in rollouts]).astype(bool)
    chosen = np.sort(np.concatenate([np.flatnonzero(harm == side)[: number // 2] for side in (True, False)]))
    return [episodes[i] for i in chosen], harm[chosen]


@dataclass(frozen=True)
class Asking:
    """The judge, and where its answers are kept."""

    judge: LogOddsJudge
    config: JudgeConfig
    store: LabelStore

    async def about(self, episodes: Sequence[Episode], wording: str, prompt: Prompt) -> list[dict[str, Any] | None]:
        """What was told of each episode's log-odds; None for an abstention."""
        config = self.config.model_copy(update={"caption": wording})
        questions = replace(Questionnaire.of(config, HomegridRenderer(), self.judge.identity), prompt=prompt)
        asked = [Asked(questions.about(episode), episode, run_id=wording) for episode in episodes]
        # One at a time: the next question's beginning is then the last one's, which the server has read already.
        labels = await ask_all(self.judge, self.store, Caps(), asked, config=config, concurrency=1)
        outcomes = [label.outcome for label in labels if label is not None]
        return [json.loads(one.text) if isinstance(one, Verdict) else None for one in outcomes]

    async def content_free(self, prompt: Prompt) -> dict[str, float]:
        """Mean log-odds by order for reports without content."""
        told = []
        for caption in CONTENT_FREE:
            question = Question("approval", (Unit("content-free", caption=caption),), prompt, self.judge.identity)
            outcome = await self.judge.ask(question)
            if isinstance(outcome, Verdict):
                told.append(json.loads(outcome.text)["log_odds"])
        return {order: float(np.mean([one[order] for one in told])) for order in ("first", "swapped")}


async def ask(asking: Asking, episodes: Sequence[Episode]) -> dict[str, Any]:
    """Every wording of every episode, block by block; then another beginning of the answer."""
    prompt, wordings = load_prompt(asking.config.prompt), HomegridRenderer.wordings
    other = replace(prompt, name="other-beginning", begins=OTHER_BEGINNING)
    found: dict[str, list[Any]] = {wording: [] for wording in wordings}
    for first in range(0, len(episodes), BLOCK):
        for wording in wordings:
            if wording not in FEWER or first < FEWER_EPISODES:
                found[wording] += await asking.about(episodes[first : first + BLOCK], wording, prompt)
        print(
            f"{time.strftime('%H:%M:%S')}  {first + BLOCK} episodes, {asking.store.stats().labels} answers", flush=True
        )
    few = episodes[:OTHER_EPISODES]
    return {
        "prompt": found,
        "other": {wording: await asking.about(few, wording, other) for wording in OTHER_WORDINGS},
        "content_free": await asking.content_free(prompt),
        "content_free_other": await asking.content_free(other),
    }


async def answers(episodes: Sequence[Episode], store: Path) -> dict[str, Any]:
    wanted = JudgeConfig(kind="logodds", gguf="smollm2", prompt="homegrid-caption", caption="event")
    with LocalModel() as model, LabelStore(store) as labels:
        config = model.start(wanted, threads=1)
        judge = judge_from(config, None)
        assert isinstance(judge, LogOddsJudge)
        try:
            said = await ask(Asking(judge, config, labels), episodes)
        finally:
            await judge.close()
        latency_s = [one.outcome.usage.latency_s for one in labels.labels() if not one.replayed]
    return said | {
        "model": config.model,
        "questions": len(latency_s),
        "mean_latency_s": float(np.mean(latency_s)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--store", type=Path, default=Path("runs/local-judge/labels.sqlite"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/local-judge.json"))
    options = parser.parse_args()
    options.store.parent.mkdir(parents=True, exist_ok=True)
    episodes, harm = play(options.episodes, SEED)
    said = asyncio.run(answers(episodes, options.store))
    fresh = play(options.episodes, SEED_OF_FRESH)
    result = {
        "command": f"scripts/reproduce/local_judge.py --episodes {options.episodes}",
        "machine": this_machine() | {"threads_of_the_model": 1},
        "model": said["model"], "questions": said["questions"], "mean_latency_s": said["mean_latency_s"],
        "episodes": len(episodes), "with_harm": int(harm.sum()),
        **figures.study(said, episodes, harm, fresh, HomegridRenderer()),
    }  # fmt: skip
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(figures.tables(result))
    print(f"written: {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
