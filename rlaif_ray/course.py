"""The course of a training run beside the training itself: phases, evaluations, status, summary.

A single run and a trial of a sweep go the same course, so that their figures mean the same. Truth is evaluated at phase
ends and steers nothing.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray.exceptions import RayError

from rlaif_ray.config import Config
from rlaif_ray.errors import RlaifError
from rlaif_ray.evaluation import Stopped, World, evaluate_policy
from rlaif_ray.files import write_whole
from rlaif_ray.networks import Policy
from rlaif_ray.runlog import plain, without_nan
from rlaif_ray.scorebook import append_scores

__all__ = ["DRAIN_S", "EVALUATION_SEED", "Course"]

EVALUATION_SEED = 10_000  # not a training seed anybody picks
DRAIN_S = 8.0  # at a normal end, answers still out are waited for this long


class Course:
    """What becomes of a run between its first iteration and its summary.

    ``algorithm`` is a ``FeedbackPPO``; ``stop`` says whether whoever runs this wants it to end; ``phase_ended(name)``
    is called once the end of a phase has been evaluated.
    """

    def __init__(
        self,
        config: Config,
        path: Path,
        algorithm: Any,
        *,
        stop: Callable[[], bool],
        phase_ended: Callable[[str], None],
    ) -> None:
        self.config, self.path, self.algorithm = config, path, algorithm
        self.stop, self.phase_ended = stop, phase_ended
        self.phases: list[dict[str, Any]] = []
        self.earlier_wall_s = 0.0
        self.feedback_episodes = 0  # finished in the feedback phase
        self.began = time.monotonic()  # of this process's part, its start included where the caller says so

    # ------------------------------------------------------------------------------------------ on the way

    def look(self, row: dict[str, Any]) -> None:
        """Keep an iteration's scores, and make the evaluations that are due; their outcomes go into its row."""
        run, steps = self.config.run, self.algorithm.steps
        append_scores(self.path, self.algorithm.loop.take_scores())
        if row.get("phase") == "feedback" and row.get("iteration_steps"):
            self.feedback_episodes += int(row["task"]["episodes"])
        if self._task_phase_ended(steps):
            self._end_phase("task", steps)
            row["eval"] = self.phases[-1]["evaluation"]
        elif run.evaluate_every_steps and _crossed(steps, row, run.evaluate_every_steps):
            row["eval"] = self.evaluate(self.algorithm.policy(), run.evaluate_episodes // 4)

    @property
    def over(self) -> bool:
        run = self.config.run
        enough = 0 < run.feedback_episodes <= self.feedback_episodes
        return bool(enough or self.algorithm.loop.watch.stopped or self.algorithm.steps >= run.total_steps)

    def end_task_only(self) -> None:
        """A run that asks nobody has one phase, which ends with it."""
        if self.config.mix.source == "none" and not self.phases:
            self._end_phase("task", self.algorithm.steps)

    def _task_phase_ended(self, steps: int) -> bool:
        mix = self.config.mix
        return mix.source != "none" and mix.start_step > 0 and steps >= mix.start_step and not self.phases

    def _end_phase(self, name: str, steps: int) -> None:
        evaluation = self.evaluate(self.algorithm.policy(), self.config.run.evaluate_episodes)
        self.phases.append({"name": name, "steps": steps, "wall_s": self.wall_s(), "evaluation": evaluation})
        self.phase_ended(name)

    def evaluate(self, policy: Policy | None, episodes: int) -> dict[str, Any]:
        """Outcomes by the name of ``env.evaluate_options``. Raises Stopped."""
        if policy is None or not episodes:
            return {}
        named = self.config.env.evaluate_options or {"train": {}}
        return {
            name: evaluate_policy(policy, self.world(options), episodes, seed=EVALUATION_SEED, stop=self.stop)
            for name, options in named.items()
        }

    def world(self, options: Mapping[str, Any]) -> World:
        return World(self.config.env.id, {**self.config.env.options, **options})

    def wall_s(self) -> float:
        return self.earlier_wall_s + time.monotonic() - self.began

    def facts(self) -> dict[str, Any]:
        """What a checkpoint remembers of the course."""
        facts = {"steps": self.algorithm.steps, "wall_s": self.wall_s(), "phases": self.phases}
        return facts | {"feedback_episodes": self.feedback_episodes}

    def go_on_from(self, facts: Mapping[str, Any]) -> None:
        self.phases, self.earlier_wall_s = list(facts["phases"]), float(facts["wall_s"])
        self.feedback_episodes = int(facts.get("feedback_episodes", 0))  # older checkpoints have none

    # ------------------------------------------------------------------------------------------ the end

    def status(self) -> str:
        """``interrupted``, ``stopped_by_watch`` (the reward model was being gamed), ``done``, or
        ``no_feedback_learned``: it was wanted, and no episode was ever paid by it."""
        if self.stop():
            return "interrupted"
        if self.algorithm.loop.watch.stopped:
            return "stopped_by_watch"
        totals = self.algorithm.loop.totals
        return "done" if totals["direct"] + totals["distilled"] or not self.config.asks else "no_feedback_learned"

    def finish(self, summary: dict[str, Any], after: Callable[[Policy | None], None] = lambda _: None) -> None:
        """The final evaluation, then ``after(policy)``; the summary is filled in and written."""
        if summary["status"] != "interrupted":
            try:
                policy = self._evaluate_finally(summary)
                after(policy)
            except Stopped:
                summary["status"] = "interrupted"
        summary.update(phases=self.phases, wall_s=self.wall_s())
        self.write(summary)

    def _evaluate_finally(self, summary: dict[str, Any]) -> Policy | None:
        policy: Policy | None = self.algorithm.policy()
        if self.phases and self.phases[-1]["steps"] == self.algorithm.steps:  # it was evaluated just now
            evaluation = self.phases[-1]["evaluation"]
        else:
            evaluation = self.evaluate(policy, self.config.run.evaluate_episodes)
        if self.config.mix.source != "none":
            phase = {"name": "feedback", "steps": self.algorithm.steps, "wall_s": self.wall_s()}
            self.phases.append({**phase, "evaluation": evaluation})
        summary["evaluation"] = evaluation
        return policy

    def summary(self, status: str) -> dict[str, Any]:
        """The figures of the run so far, without a final evaluation."""
        loop, judge, totals = self.algorithm.loop, self.config.judge, self.algorithm.loop.totals
        episodes = max(1, sum(totals.values()))
        stats = loop.pool_stats()
        report = loop.report
        return {
            "status": status,
            "name": self.config.run.name,
            "seed": self.config.run.seed,
            "steps": self.algorithm.steps,
            "total_steps": self.config.run.total_steps,
            "lost_steps": self.algorithm.lost_steps,
            "feedback_episodes": self.feedback_episodes,
            "wall_s": self.wall_s(),
            **{key: getattr(stats, key, None) for key in ("labels", "abstained", "replayed", "spend_usd", "cap_usd")},
            "judge": {
                "kind": judge.kind if self.config.asks else "none",
                "model": judge.model,
                "profile": judge.profile if judge.kind == "builtin" else None,
                "as_if": judge.as_if,
                "members": [member.profile if member.kind == "builtin" else member.model for member in judge.members],
                "error": str(loop.judge_error) if loop.judge_error else None,
                "manners": list(loop.pool.manners) if loop.pool else [],
                **{key: getattr(stats, key, 0) for key in ("both_orders", "inconsistent")},
            },
            "reward_model": {
                **(report.figures() if report else {}),
                "fits": len(loop.reports),
                "rolled_back": sum(one.reason.startswith("rolled back") for one in loop.reports),
                "drift_alarms": sum(one.drift_alarm for one in loop.reports),
                "version": loop.version,
                "heldout_accuracy": report.heldout_accuracy if report else None,
                "heldout_n": report.heldout_n if report else 0,
                "gate_open": loop.version > 0,
                "reason": report.reason if report else "",
            },
            "watch": loop.watch.summary(),
            "provenance": {name: count / episodes for name, count in totals.items()},
            "lateness": loop.lateness.figures(),
            "evaluation": {},
            "phases": self.phases,
        }

    def write_failed(self, summary: Callable[[str], Mapping[str, Any]]) -> None:
        """``write`` what ``summary("failed")`` gives, if it can be: what is told is what went wrong first."""
        with contextlib.suppress(RlaifError, RayError, OSError):
            self.write(summary("failed"))

    def write(self, summary: Mapping[str, Any]) -> None:
        """``summary.json`` in the run's folder."""
        text = json.dumps(without_nan(plain(summary)), indent=1, allow_nan=False)
        write_whole(self.path / "summary.json", text + "\n")


def _crossed(steps: int, row: Mapping[str, Any], every: int) -> bool:
    return steps // every > (steps - int(row.get("iteration_steps", 0))) // every
