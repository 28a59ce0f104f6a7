"""Which of the finished episodes are put to the judge, and the answers as they come.

``Asking`` holds what must be remembered of it: which episodes await an answer, with which probability each was asked
about, and what was answered since the last iteration's end. How episodes are drawn is handed in; who asks is the pool.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from rlaif_ray.config import Config, FeedbackConfig
from rlaif_ray.errors import JudgeError
from rlaif_ray.lateness import Lateness, WaitPlan
from rlaif_ray.pairing import paired
from rlaif_ray.partners import Chooser, Judges, LearnsToJudge, Scorer
from rlaif_ray.scoring import doubts_about
from rlaif_ray.tally import Tally
from rlaif_ray.types import Abstention, Array, Candidates, Draw, Drawn, Label, Rollout, Units, episodes_of

__all__ = ["SLICE_S", "Asking", "Now", "fraction_at"]

# Waits are cut into slices, between which whoever wants to stop is heard.
SLICE_S = 1.0


def fraction_at(step: int, feedback: FeedbackConfig, total_steps: int) -> float:
    """Share of episodes asked about at an environment step: `fraction`, or on the line from there, at the first
    question, to `fraction_final` at the last."""
    if feedback.fraction_final is None:
        return feedback.fraction
    progress = feedback.progress(step, total_steps)
    return feedback.fraction + progress * (feedback.fraction_final - feedback.fraction)


@dataclass(frozen=True)
class Now:
    """What asking goes by at the moment, and where it notes what comes of it."""

    iteration: int
    tally: Tally
    lateness: Lateness
    step: int = 0  # environment steps of the run
    version: int = 0  # of the reward model that counts; 0: none
    scorer: Scorer | None = None  # that version


class Asking:
    """Puts a budgeted part of the episodes to the judge, takes the answers, and hands them to who learns to judge."""

    def __init__(
        self,
        config: Config,
        pool: Judges | None,
        trainer: LearnsToJudge | None,
        *,
        choose: Chooser,
        compares: bool = False,  # questions are about two episodes each
    ) -> None:
        self.config, self.pool, self._trainer = config, pool, trainer
        self._choose, self._compares = choose, compares
        self._rng = np.random.default_rng([config.run.seed, 1])
        self.stopping: Callable[[], bool] = lambda: False  # asked while waiting
        self.judge_error: JudgeError | None = None
        self.awaited: dict[int, tuple[Units, int]] = {}  # asked episode (the first of two) -> what, since when
        self.inclusion: dict[int, float] = {}  # asked episode -> probability of that; inf: no draw asked for it
        self.verdicts: dict[int, float] = {}  # that came since the last iteration's end
        self.abstained: set[int] = set()
        self._position = 0  # in the store, of the last label heard of
        self._plan = WaitPlan()
        self._answers = 0  # since the last iteration's end

    # ------------------------------------------------------------------------------------------ ask

    def ask(self, rollouts: Sequence[Rollout], now: Now) -> None:
        """Put a budgeted fraction of the episodes just finished to the judge; take the answers that have come."""
        if self.pool is None:
            return
        feedback, step = self.config.feedback, now.step
        open_for_questions = step >= feedback.start_step and (not feedback.stop_step or step < feedback.stop_step)
        if open_for_questions and self.judge_error is None:
            fraction = fraction_at(step, feedback, self.config.run.total_steps)
            limit = self._plan.limit(feedback, self.pool.in_flight)
            self._submit(rollouts, now, fraction, feedback.labels_per_iteration or math.inf, limit)
        self.take(self.pool.poll, now)
        if feedback.late == "wait" and (asked := len(self.awaited)):
            self.wait(feedback.wait_s, now)
            self._plan = self._plan.after(asked - len(self.awaited), len(self.awaited))

    def ask_for(self, wanted: int, rollouts: Sequence[Rollout], now: Now) -> None:
        """See that so many questions are in flight, whatever the fraction; take the answers that have come."""
        if self.pool is None:
            return
        if wanted > self.pool.in_flight:
            self._submit(rollouts, now, 1.0, wanted - self.pool.in_flight)
        self.take(self.pool.poll, now)

    def _submit(
        self, rollouts: Sequence[Rollout], now: Now, fraction: float, wanted: float, limit: float = math.inf
    ) -> None:
        """Choose among the episodes of all runners together: at most ``wanted`` questions in this iteration, and at
        most ``limit``, whose answers can come in time."""
        candidates, where = self._candidates(rollouts, now.scorer if limit > 0 else None)
        if self.pool is None or not len(candidates):
            return
        before, of_each = self.pool.turned_away, 2 if self._compares else 1
        expected = min(fraction * len(candidates), of_each * wanted)
        too_many = min(expected / of_each, self.pool.room_at(now.step)) - limit
        if self.config.feedback.late == "defer" and too_many >= 1:
            self.pool.turn_away(int(too_many))
        expected = min(expected, of_each * limit)
        drawn = self._choose(self._rng, candidates, expected, self.config.feedback, of_each)
        self._put(drawn, candidates, rollouts, where, now)
        now.tally.turned_away += self.pool.turned_away - before
        now.lateness.turned_away += self.pool.turned_away - before

    def _put(self, drawn: Drawn, candidates: Candidates, rollouts: Sequence[Rollout], where: Array, now: Now) -> None:
        """Put what was drawn to the pool."""
        picked = [rollouts[r].episodes[e].copy() for r, e in where[drawn.index].tolist()]
        units: list[Units] = paired(picked, drawn.audit, self._rng) if self._compares else list(picked)
        if self.pool is None or not units:
            return
        about = {episodes_of(one)[0].episode_id: one for one in units}
        room = self.pool.room_at(now.step)
        chances, draws = self._chances(units, {one.episode_id: i for i, one in enumerate(picked)}, drawn, room)
        spread = {} if candidates.spread is None else dict(
            zip((one.episode_id for one in picked), candidates.spread[drawn.index].tolist(), strict=True)
        )  # fmt: skip
        accepted = self.pool.submit(
            units,
            inclusion_probability=chances,
            step=now.step,
            reward_model_version=now.version,
            doubts=doubts_about(units, spread, self.config.judge),
            draws=draws,
        )
        now.tally.asked += len(accepted)
        self.awaited.update({i: (about[i], now.iteration) for i in accepted})
        asked_with = dict(zip(about, zip(chances, draws, strict=True), strict=True))
        self.inclusion.update({i: _by_draw(*asked_with[i]) for i in accepted})

    def _candidates(self, rollouts: Sequence[Rollout], scorer: Scorer | None) -> tuple[Candidates, Array]:
        """Episodes that nobody was asked about yet, and (E, 2) whose rollout's they are and which of them."""
        known = self.awaited.keys() | self.verdicts.keys() | self.abstained
        found = [_of_rollout(rollout, known, scorer if self._looks else None) for rollout in rollouts]
        where = [(r, e) for r, (fresh, _) in enumerate(found) for e in fresh.tolist()]
        names = ("policy_version", "ended", "terminated", "belief", "spread")
        columns = {name: [of[name] for _, of in found if name in of] for name in names}
        joined = {name: np.concatenate(parts) for name, parts in columns.items() if len(parts) == len(found) > 0}
        if not where:
            return Candidates(*(np.zeros(0, np.int64) for _ in names[:3])), np.zeros((0, 2), np.int64)
        return Candidates(**joined), np.array(where, np.int64)

    @property
    def _looks(self) -> bool:
        """Whether choosing, or a cascade, goes by what the reward model says. Mixing scores the same episodes in the
        same iteration: they are scored once."""
        cascade = self.config.judge.cascade
        by_model = self.config.feedback.select in ("uncertain", "disagreement", "stratified")
        return by_model or (cascade is not None and "rm-disagrees" in cascade.when)

    def _chances(
        self, units: Sequence[Units], place: dict[int, int], drawn: Drawn, room: int
    ) -> tuple[list[float], list[Draw]]:
        """Of each question, its first episode's probability of being in one, and how it was drawn.

        They come in random order. So where the pool has room for r of k only, the first r are a random part of what was
        drawn, and each had r / k of its chance; the rest is offered for what the store may know of it. A pair is audit
        where both of its episodes are. Of an odd number drawn for pairs, a random one is left over.
        """
        in_a_pair = len(units) * 2 / len(drawn) if self._compares else 1.0
        scale = in_a_pair * min(1.0, room / len(units)) if room else in_a_pair
        chances, draws = [], []
        for i, unit in enumerate(units):
            places = [place[one.episode_id] for one in episodes_of(unit)]
            chances.append(scale * float(drawn.probability[places[0]]))
            alike: Draw = "audit" if drawn.audit[places].all() else "targeted"
            draws.append(alike if i < room else "known")
        return chances, draws

    # ------------------------------------------------------------------------------------------ take the answers

    def wait(self, deadline_s: float, now: Now) -> None:
        """Until all that is in flight has arrived, at most so long."""
        pool, end = self.pool, time.monotonic() + deadline_s
        while pool is not None and pool.in_flight and not self.stopping():
            slice_s = min(SLICE_S, end - time.monotonic())
            if slice_s <= 0 or self.judge_error is not None:
                return
            self.take(partial(pool.wait, slice_s), now)

    def take(self, call: Callable[[], list[Label]], now: Now) -> None:
        """Take answers; a judge that can't be used any more ends the asking, not the training."""
        try:
            labels = call()
        except JudgeError as error:
            self.judge_error = error
            labels = []
        self._answers += len(labels)
        units, values, draws = [], [], []
        for label in labels:
            self._position = max(self._position, label.label_id)
            asked = self.awaited.pop(label.episode_id, None)
            if isinstance(label.outcome, Abstention):
                self.abstained.add(label.episode_id)
                now.tally.abstained += 1
                continue
            if self._pays(label.draw != "known"):
                self.verdicts[label.episode_id] = label.outcome.value
            now.lateness.verdicts += 1
            now.tally.hear(label, compares=self._compares)
            if asked is not None:
                units.append(asked[0])
                values.append(label.outcome.value)
                draws.append(label.draw)
                now.tally.ages.append(now.iteration - asked[1])
        if self._trainer is not None and units:
            self._trainer.add(units, values, draws)
        if self.pool is not None and not self.pool.in_flight:
            self.awaited.clear()  # what is left could not be put to the judge: nobody will answer

    def _pays(self, drawn: bool) -> bool:
        """Whether a verdict pays its episode: what a preference says of one episode by itself is nothing, and where a
        verdict stands for others, one that no draw asked for stands for none."""
        return (drawn or self.config.mix.unjudged != "reweight") and not self._compares

    def drain(self, deadline_s: float, now: Now) -> None:
        """Wait for the answers still out, which are paid for and stored; put no further question."""
        if self.pool is not None:
            self.pool.hush()
            self.take(self.pool.poll, now)
            self.wait(deadline_s, now)

    # ------------------------------------------------------------------------------------------ go on

    def recall(self, verdicts: Mapping[int, float]) -> None:
        """Verdicts that an earlier process of this run paid for, on episodes of which a part is kept back."""
        drawn = {i: self.inclusion.get(i, 1.0) < math.inf for i in verdicts}
        self.verdicts = {i: value for i, value in verdicts.items() if self._pays(drawn[i])}

    def end_iteration(self, held: Collection[int]) -> None:
        """Forget what nobody will ask for again; ``held``: episodes of which a part is kept back."""
        self.verdicts.clear()
        self.abstained.clear()
        self.inclusion = {i: p for i, p in self.inclusion.items() if i in self.awaited or i in held}
        self._plan, self._answers = self._plan.heard(self._answers), 0

    def measured(self, latency_s: float) -> None:
        """The judge's mean latency: how many can be waited for follows from it."""
        self._plan = self._plan.measured(latency_s)

    def state(self) -> dict[str, Any]:
        """For a checkpoint: answers are in the store and referred to by position."""
        return {
            "rng": self._rng.bit_generator.state,
            "store_position": self._position,
            "inclusion": dict(self.inclusion),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._rng.bit_generator.state = state["rng"]
        self._position = state["store_position"]
        self.inclusion = dict(state.get("inclusion", {}))  # older checkpoints have none


def _of_rollout(rollout: Rollout, known: Collection[int], scorer: Scorer | None) -> tuple[Array, dict[str, Array]]:
    """Indices of the complete episodes that aren't known, and what ``Candidates`` holds of them."""
    episodes = rollout.episodes
    fresh = np.flatnonzero([i not in known for i in episodes.episode_id.tolist()])
    columns = {
        "policy_version": episodes.policy_version[fresh],
        "ended": rollout.episode_cells[fresh, 2],
        "terminated": episodes.terminated[fresh],
    }
    if scorer is not None:
        scores = scorer.score(episodes)
        columns["belief"] = scores.final[fresh]
        if scores.spread is not None:
            columns["spread"] = scores.spread[episodes.obs_offsets[1:] - 1][fresh]
    return fresh, columns


def _by_draw(probability: float, draw: Draw) -> float:
    return math.inf if draw == "known" else probability
