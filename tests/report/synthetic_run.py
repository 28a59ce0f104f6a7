"""A made-up run folder in the shape that a real run leaves, with known figures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from rlaif_ray.config import dump_config, load_config
from rlaif_ray.envs.media import write_gif
from rlaif_ray.types import Episode

ITERATIONS = 120
STEPS_EACH = 22_500
GATE_OPENS = 30


def row(i: int) -> dict[str, object]:
    """Iteration ``i``, nested as in result.json: a task phase to 500,000 steps, then feedback that works."""
    steps = (i + 1) * STEPS_EACH
    feedback = steps > 500_000
    learned = 1 / (1 + math.exp(-(i - 60) / 8))
    survived = 0.38 + 0.61 * learned
    share_rm = 0.94 if i >= GATE_OPENS else 0.0
    labels = max(0, min(500, 5 * (i - 22)))
    noise = 0.01 * math.sin(i * 1.7)
    return {
        "steps": steps,
        "total_steps": ITERATIONS * STEPS_EACH,
        "iteration": i + 1,
        "phase": "feedback" if feedback else "task",
        "time_total_s": 3.1 * (i + 1),
        "steps_per_s": 7200 + 200 * math.sin(i),
        "task": {
            "episode_return_mean": 0.9 - 0.5 * math.exp(-i / 6) + noise,
            "episode_length_mean": 11.5 + 40 * math.exp(-i / 5),
            "episodes": 700,
        },
        "truth": {"found": 0.997 - 0.6 * math.exp(-i / 5), "cat_survived": survived + noise},
        "feedback": {
            "asked": labels + 2 if feedback else 0,
            "labels": labels,
            "abstained": labels // 100,
            "in_flight": 4 if feedback else 0,
            "spend_usd": labels * 0.002,
            "reserved_usd": 0.01,
            "cap_usd": 5.0,
            "labels_left": 500 - labels,
            "latency_s": 4.2,
            "approval_rate": survived - 0.02 + 3 * noise if feedback and i % 3 else float("nan"),
        },
        "rm": {
            "version": max(0, (i - 26) // 4),
            "heldout_accuracy": min(0.99, 0.8 + 0.004 * max(0, i - 26)) if i >= 30 else float("nan"),
            "heldout_n": max(0, labels // 5),
            "gate_open": i >= GATE_OPENS,
            "score_mean": survived - 0.01 if i >= GATE_OPENS else float("nan"),
        },
        "mix": {
            "weight": max(0.0, min(1.0, (steps - 5e5) / 1.3e6)),
            "share_direct": 0.02 if feedback else 0.0,
            "share_distilled": share_rm,
            "share_abstained": 0.001 if feedback else 0.0,
            "share_task": 1.0 - share_rm - (0.021 if feedback else 0.0),
        },
        "time": {"sample_s": 0.9, "score_s": 0.3, "learn_s": 1.7, "wait_s": 0.0, "iteration_s": 2.9},
    }


def outcome(cat: float, found: float, length: float, starts: str) -> dict[str, object]:
    return {
        "episodes": 2000,
        "found": found,
        "cat_survived": cat,
        "mean_length": length,
        "task_return": 0.89,
        "deterministic": False,
        "options": {"starts": starts},
    }


SUMMARY: dict[str, object] = {
    "status": "done",
    "name": "made-up",
    "steps": 2_700_000,
    "wall_s": 372.5,
    "labels": 485,
    "abstained": 4,
    "spend_usd": 0.97,
    "cap_usd": 5.0,
    "judge": {"kind": "builtin", "model": "gpt-4o-mini-2024-07-18", "profile": "gpt-4o-mini-2024", "as_if": True},
    "reward_model": {"version": 23, "heldout_accuracy": 0.979, "heldout_n": 97, "gate_open": True},
    "provenance": {"direct": 0.02, "distilled": 0.94, "abstained": 0.001, "task": 0.039},
    "evaluation": {"heldout": outcome(0.985, 0.9905, 12.1, "heldout"), "train": outcome(0.99, 0.996, 11.9, "train")},
    "phases": [
        {
            "name": "task",
            "steps": 500_000,
            "evaluation": {
                "heldout": outcome(0.401, 0.985, 11.0, "heldout"),
                "train": outcome(0.395, 0.992, 10.9, "train"),
            },
        },
        {
            "name": "feedback",
            "steps": 2_700_000,
            "evaluation": {
                "heldout": outcome(0.985, 0.9905, 12.1, "heldout"),
                "train": outcome(0.99, 0.996, 11.9, "train"),
            },
        },
    ],
    "peak_memory_gb": 3.2,
}


def write_run(folder: Path, *, iterations: int = ITERATIONS, summary: dict[str, object] | None = SUMMARY) -> Path:
    """Write config, results, GIFs and (unless None) the summary; labels are left to the caller."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(dump_config(load_config("homegrid", {"run.name": folder.name})))
    lines = [json.dumps(row(i)) for i in range(iterations)]
    (folder / "result.json").write_text("\n".join(lines) + "\n")
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    palette = np.array([[250, 250, 250], [0, 114, 178], [213, 94, 0]], np.uint8)
    for index in (1, 2):
        for colour, when in ((1, "before"), (2, "after")):
            frames = np.zeros((4, 48, 56), np.uint8)
            for t in range(4):
                frames[t, 16:32, 8 * t : 8 * t + 16] = colour
            write_gif(folder / "media" / f"{when}-{index}.gif", frames, palette)
    return folder


def write_labels(run: Path, descriptions: list[str]) -> None:
    """Real episodes of a random walk in the run's label store: approvals, rejections and one abstention in turn."""
    from rlaif_ray import envs
    from rlaif_ray.feedback.budget import Amount, Caps
    from rlaif_ray.feedback.prompt import load_prompt
    from rlaif_ray.feedback.question import Asked, JudgeIdentity, question_about
    from rlaif_ray.feedback.records import record_of
    from rlaif_ray.feedback.store import LabelStore
    from rlaif_ray.types import Abstention, Usage, Verdict

    make = envs.env_spec("rlaif_ray/Homegrid-v0").renderer
    assert make is not None
    renderer, prompt = make({}), load_prompt("homegrid-align")
    with LabelStore(run / "labels.sqlite") as store:
        store.open_run(run.name, Caps(usd=5.0, labels=500))
        for i, description in enumerate(descriptions):
            question = question_about(
                random_walk(i), renderer=renderer, prompt=prompt, judge=JudgeIdentity("builtin", "p"), max_images=101
            )
            record = record_of(Asked(question, random_walk(i), run.name, step=500_000 + 1000 * i))
            usage = Usage(input_tokens=30_000 + i, output_tokens=90, cost_usd=0.005, latency_s=4.2)
            raw = json.dumps({"description": description, "reasoning": "It is.", "answer": "yes"})
            verdict = Verdict(
                "approval", float(i % 2), raw, usage, approved=bool(i % 2), description=description, reasoning="It is."
            )
            outcome = verdict if i != 3 else Abstention("refusal", "it will not say", usage, text="I can't help")
            assert store.claim(record, "test") == "claimed"
            ticket = store.reserve(record, Amount(usd=0.01, labels=1, tokens=40_000), Caps(usd=5.0), "test")
            store.answer(record, outcome, ticket, Amount(usd=0.005, labels=1, tokens=30_090 + i))


def random_walk(seed: int) -> Episode:
    """One whole episode of random actions."""
    import gymnasium

    env = gymnasium.make("rlaif_ray/Homegrid-v0").unwrapped
    rng = np.random.default_rng(seed)
    first, _ = env.reset(seed=seed)
    obs, states, actions, done, total = [first], [env.states()[0]], [], False, 0.0
    while not done:
        actions.append(int(rng.integers(4)))
        after, reward, terminated, truncated, _ = env.step(actions[-1])
        obs.append(after)
        states.append(env.states()[0])
        total, done = total + float(reward), terminated or truncated
    return Episode(seed, np.array(obs), np.array(states), np.array(actions), total, terminated, 1)
