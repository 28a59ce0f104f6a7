"""``rlaif-ray judge cost`` and ``judge compare``: what ways of asking cost, and what wording does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rlaif_ray.cli.options import Compare, Cost
from rlaif_ray.cli.output import only_json, print_json
from rlaif_ray.cli.sample import picture_px, renderer_of, sample_episodes
from rlaif_ray.config import Config, load_config
from rlaif_ray.errors import ConfigError
from rlaif_ray.feedback.budget import Caps
from rlaif_ray.feedback.compare import Comparison, compare_prompts
from rlaif_ray.feedback.costs import FramingCost, estimate_framings, probe_framings
from rlaif_ray.feedback.judge import judge_from, key_for
from rlaif_ray.feedback.prompt import load_prompt
from rlaif_ray.feedback.quoting import printable
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.report.run import find_run
from rlaif_ray.surroundings import judge_served
from rlaif_ray.types import Episode, episode_key

__all__ = ["compare", "cost"]

_USUAL_EPISODES = 1_000


def cost(command: Cost) -> int:
    """What each way of sending frames would cost."""
    config = load_config(command.config or "homegrid", command.overrides)
    if command.episodes < 0:
        raise ConfigError(f"--episodes: got {command.episodes}, allowed are 0 and up")
    questions = command.episodes or config.budget.labels or _USUAL_EPISODES
    with only_json(command.json):
        renderer = renderer_of(config)
        sample = sample_episodes(config)
        size = picture_px(config, sample.typical)
        rows = estimate_framings(config, [sample.typical_length], questions, picture_px=size)
        if command.probe:
            with judge_served(config) as ready:
                rows = probe_framings(ready, sample.typical, renderer, questions)
    if command.json:
        print_json({"questions": questions, "framings": [asdict(row) for row in rows]})
    else:
        steps = len(sample.typical) if command.probe else sample.typical_length
        print(printable("\n".join(_told(rows, questions, steps, config))))
    return 0


def compare(command: Compare) -> int:
    """Ask two prompts about the same stored episodes."""
    if len(command.prompt) != 2:
        raise ConfigError(f"--prompt: got {len(command.prompt)} of them, expected two (--prompt A --prompt B)")
    if command.episodes < 1 or command.usd < 0:
        raise ConfigError(f"got --episodes {command.episodes} and --usd {command.usd}, allowed are >= 1 and >= 0")
    path, config = _store_of(command)
    for prompt in command.prompt:
        load_prompt(prompt)
    with only_json(command.json), LabelStore(path) as store, judge_served(config) as ready:
        found = asyncio.run(_compared(ready, store, command))
    if command.json:
        print_json(asdict(found))
    else:
        print("\n".join(_told_comparison(found)))
    return 0


async def _compared(config: Config, store: LabelStore, command: Compare) -> Comparison:
    configs = [config.judge.model_copy(update={"prompt": prompt}) for prompt in command.prompt]
    judge = judge_from(config.judge, key_for(config.judge))
    already = store.account(Caps()).spent.usd
    try:
        return await compare_prompts(
            judge,
            store,
            Caps(usd=already + command.usd),  # a cap is on all that the store has seen
            _episodes(store, command.episodes),
            renderer_of(config),
            (configs[0], configs[1]),
        )
    finally:
        await judge.close()


def _episodes(store: LabelStore, most: int) -> list[Episode]:
    """Different episodes of the store's labels, evenly spread over them."""
    found: dict[str, Episode] = {}
    for label in store.labels():
        episode = store.episode_of(label)
        found.setdefault(episode_key(episode), episode)
    chosen = list(found.values())
    step = max(1.0, len(chosen) / most)
    return [chosen[int(i * step)] for i in range(min(most, len(chosen)))]


def _store_of(command: Compare) -> tuple[Path, Config]:
    """The label store that was named, and the config to ask by."""
    named = Path(command.labels)
    if named.is_file():
        return named, load_config(command.config or "homegrid", command.overrides)
    run = find_run(command.labels)
    own = run / "config.yaml"
    config = load_config(command.config or (str(own) if own.is_file() else "homegrid"), command.overrides)
    return Path(config.feedback.store) if config.feedback.store else run / "labels.sqlite", config


# ------------------------------------------------------------------------------------------ in words


def _told(rows: Sequence[FramingCost], questions: int, steps: int, config: Config) -> list[str]:
    judge, measured = config.judge, rows[0].measured
    how = "measured by the judge's own usage" if measured else "estimates; --probe measures"
    k = judge.frames_k
    ways = {
        "each": "each frame",
        "every": f"every {k}. and the last",
        "spread": f"first, last, {k} between",
        "sheet": "one sheet",
    }
    lines = [
        f"{questions:,} questions about episodes of {steps} steps, at most {judge.max_images} frames of "
        f"{judge.frames_scale:g} times their size ({how})",
        "",
        f"{'frames':22} {'pictures':>8} {'tokens in':>10} {'out':>5} {'USD a question':>15} {'USD in all':>11}",
    ]
    lines += [
        f"{ways[row.frames]:22} {row.pictures:8.1f} {row.input_tokens:10,.0f} {row.output_tokens:5.0f} "
        f"{row.usd_per_question:15.5f} {row.usd:11.2f}  {row.answer.removeprefix('verdict')}".rstrip()
        for row in rows
    ]
    if measured:
        lines += ["", f"The probe itself cost USD {sum(row.usd_per_question for row in rows):.5f}."]
    if len(judge.members) > 1:
        most = "; at most so: a cascade's strong judge is asked where the cheap one is unsure" if judge.cascade else ""
        lines += ["", f"Each question goes to {len(judge.members)} judges: sums over all of them{most}."]
    if judge.as_if:
        lines += ["", "As-if prices of the built-in judge: nothing is paid."]
    return lines


def _told_comparison(found: Comparison) -> list[str]:
    lines = [f"{'prompt':40} {'asked':>6} {'verdicts':>8} {'good':>7} {'replayed':>8} {'USD':>9}"]
    lines += [
        f"{side.prompt[-40:]:40} {side.asked:6} {side.verdicts:8} {side.good:7.1%} {side.replayed:8} {side.usd:9.4f}"
        for side in found.sides
    ]
    flips = [f"{len(ids)} to {where}" for ids, where in ((found.flips_to_bad, "bad"), (found.flips_to_good, "good"))]
    return [
        *lines,
        "",
        f"both answered   {found.both}",
        f"agreement       {found.agreement:.1%}",
        f"Cohen's kappa   {found.kappa:.3f}",
        f"flips           {', '.join(flips)} (from the first prompt to the second)",
    ]
