"""The feedback half of a training step, without RLlib: ask, learn to judge, mix.

``FeedbackLoop`` is what ``FeedbackPPO`` talks to. It is handed a pool (which asks) and a reward model (which learns in
its own actor), and holds only what must be remembered between iterations: which episodes await an answer, the weight
and reward-model version that each running episode began under, and parts kept back for a late verdict.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from rlaif_ray.config import Config
from rlaif_ray.deferral import Held, hold_back
from rlaif_ray.errors import JudgeError
from rlaif_ray.lateness import Lateness, WaitPlan
from rlaif_ray.mixing import (
    DIRECT,
    DISTILLED,
    DROPPED,
    PROVENANCE,
    Mixed,
    credit,
    feedback_weight,
    hold_until_paid,
    provenance,
    scatter,
)
from rlaif_ray.pairing import paired
from rlaif_ray.partners import Chooser, Judges, LearnsToJudge, Published, Scorer
from rlaif_ray.scoring import beliefs_of, doubts_about
from rlaif_ray.tally import Tally
from rlaif_ray.types import Abstention, Array, Episode, EpisodeBatch, Fragment, Label, RewardModelReport, Rollout, Units

__all__ = ["FeedbackLoop"]

# Waits are cut into slices, between which whoever wants to stop is heard.
_SLICE_S = 1.0
# An open episode not seen for so many iterations went with its runner.
_FORGET_AFTER = 100


class FeedbackLoop:
    """Asks about some episodes, trains the reward model on the answers, and says what every step is worth."""

    def __init__(
        self,
        config: Config,
        pool: Judges | None,
        trainer: LearnsToJudge | None,
        *,
        choose: Chooser,
        load: Callable[[Mapping[str, Any]], Scorer],
        compares: bool = False,  # questions are about two episodes each
    ) -> None:
        self.config = config
        self.pool, self._trainer = pool, trainer
        self._choose, self._load, self._compares = choose, load, compares
        self._rng = np.random.default_rng([config.run.seed, 1])
        self._scorers: dict[int, Scorer] = {}
        self._states: dict[int, dict[str, Any]] = {}
        self.report: RewardModelReport | None = None
        self.reports: list[RewardModelReport] = []
        self.version = 0  # in use for episodes that begin now; 0: none
        self.ramp_from: int | None = None  # step at which the feedback reward began to count
        self.judge_error: JudgeError | None = None
        self.iteration = 0
        self.totals = dict.fromkeys(PROVENANCE, 0)
        self.stopping: Callable[[], bool] = lambda: False  # asked while waiting
        self._pins: dict[int, tuple[float, int, int]] = {}  # running episode -> weight, version, iteration last seen
        self._awaited: dict[int, tuple[Units, int]] = {}  # asked episode (the first of two) -> what, since when
        self._verdicts: dict[int, float] = {}
        self._abstained: set[int] = set()
        self._held: list[Held] = []  # late parts, in the order in which their episodes ended
        self._last_position = 0
        self._plan = WaitPlan()
        self.lateness = Lateness()
        self._tally = Tally()

    @classmethod
    def silent(cls, config: Config) -> FeedbackLoop:
        """A loop that asks nobody: every episode is learned from on its task reward."""
        return cls(config, None, None, choose=lambda *_: (np.zeros(0, np.int64), 1.0), load=_no_scorer)

    # ------------------------------------------------------------------------------------------ ask

    def ask(self, rollouts: Sequence[Rollout], step: int) -> None:
        """Put a budgeted fraction of the episodes just finished to the judge; take the answers that have come."""
        if self.pool is None:
            return
        feedback = self.config.feedback
        open_for_questions = step >= feedback.start_step and (not feedback.stop_step or step < feedback.stop_step)
        limit = self._plan.limit(feedback, self.pool.in_flight)
        if open_for_questions and self.judge_error is None and limit is not None:
            self._submit(rollouts, step, feedback.fraction, limit)
        self._guarded(self.pool.poll)
        if feedback.late == "wait" and (asked := len(self._awaited)):
            self._wait_for_answers(feedback.wait_s)
            self._plan = self._plan.after(asked - len(self._awaited), len(self._awaited))

    def _submit(self, rollouts: Sequence[Rollout], step: int, fraction: float, limit: int) -> None:
        """Choose among the episodes of all runners together: the limit (0: none) is the iteration's."""
        counts = [len(r.episodes) for r in rollouts]
        if self.pool is None or not sum(counts):
            return
        chosen, probability = self._choose(self._rng, sum(counts), fraction, limit * (2 if self._compares else 1))
        first = np.cumsum([0, *counts])
        of = np.searchsorted(first, chosen, side="right") - 1
        found = [rollouts[r].episodes[int(e - first[r])] for e, r in zip(chosen.tolist(), of.tolist(), strict=True)]
        known = self._awaited.keys() | self._verdicts.keys() | self._abstained
        picked = [episode.copy() for episode in found if episode.episode_id not in known]
        units: list[Units] = paired(picked, self._rng) if self._compares else list(picked)
        if not units:
            return
        doubts = doubts_about(units, self._scorers.get(self.version), self.config.judge)
        accepted = self.pool.submit(
            units, inclusion_probability=probability, step=step, reward_model_version=self.version, doubts=doubts
        )
        self._tally.asked += len(accepted)
        about = {(one if isinstance(one, Episode) else one[0]).episode_id: one for one in units}
        self._awaited.update({i: (about[i], self.iteration) for i in accepted})

    def _wait_for_answers(self, deadline_s: float) -> None:
        """Until all that is in flight has arrived, at most so long."""
        pool, end = self.pool, time.monotonic() + deadline_s
        while pool is not None and pool.in_flight and not self.stopping():
            slice_s = min(_SLICE_S, end - time.monotonic())
            if slice_s <= 0 or self.judge_error is not None:
                return
            self._guarded(partial(pool.wait, slice_s))

    def _guarded(self, call: Callable[[], list[Label]]) -> None:
        """Take answers; a judge that can't be used any more ends the asking, not the training."""
        try:
            labels = call()
        except JudgeError as error:
            self.judge_error = error
            labels = []
        units, values = [], []
        for label in labels:
            self._last_position = max(self._last_position, label.label_id)
            asked = self._awaited.pop(label.episode_id, None)
            if isinstance(label.outcome, Abstention):
                self._abstained.add(label.episode_id)
                self._tally.abstained += 1
                continue
            if not self._compares:  # what a preference says of one episode by itself is nothing
                self._verdicts[label.episode_id] = label.outcome.value
            self.lateness.verdicts += 1
            self._tally.verdicts.append(label.outcome.value)
            if asked is not None:
                units.append(asked[0])
                values.append(label.outcome.value)
                self._tally.ages.append(self.iteration - asked[1])
        if self._trainer is not None and units:
            self._trainer.add(units, values)
        if self.pool is not None and not self.pool.in_flight:
            self._awaited.clear()  # what is left could not be put to the judge: nobody will answer

    # ------------------------------------------------------------------------------------------ learn to judge

    def learn_to_judge(self) -> None:
        """Take the versions the trainer has published since; a version in use is swapped between iterations only."""
        if self._trainer is not None:
            self._adopt(self._trainer.poll())

    def _adopt(self, published: Sequence[Published]) -> None:
        for one in published:
            self.report = one.report
            self.reports.append(one.report)
            if one.state is not None:
                self._states[one.report.version] = one.state
                self._scorers[one.report.version] = self._load(one.state)
            self.version = one.report.version if one.report.gate_open and one.report.version in self._scorers else 0
        # The version in service stays at hand while the gate is shut: the next held-out labels may open it again.
        served = self.report.version if self.report is not None else 0
        kept = {version for _, version, _ in self._pins.values()} | {self.version, served}
        self._scorers = {v: s for v, s in self._scorers.items() if v in kept}
        self._states = {v: s for v, s in self._states.items() if v in kept}

    def hold(self, rollouts: Sequence[Rollout], step: int, deadline_s: float = 30.0) -> None:
        """While the feedback phase waits for the gate: ask about these episodes, wait for the answers and a fit."""
        if self.pool is None or self._trainer is None:
            return
        wanted = max(self.config.reward_model.retrain_every, self.config.reward_model.min_labels // 4)
        if wanted > self.pool.in_flight:
            self._submit(rollouts, step, 1.0, wanted - self.pool.in_flight)
        self._guarded(self.pool.poll)
        self._wait_for_answers(deadline_s)
        end = time.monotonic() + deadline_s
        while not self.stopping() and (left := end - time.monotonic()) > 0:
            began = time.monotonic()
            published = self._trainer.wait(min(_SLICE_S, left))
            self._adopt(published)
            if published or time.monotonic() - began < _SLICE_S / 2:
                return  # every label has been considered

    @property
    def holding(self) -> bool:
        """Whether the feedback phase must wait: pace is ``wait``, the gate is shut, and answers can still come."""
        if self._trainer is None or self.pool is None or self.config.pace != "wait" or self.version:
            return False
        return self.judge_error is None and (self.pool.in_flight > 0 or not self.pool.stats().exhausted)

    # ------------------------------------------------------------------------------------------ mix

    def mix(self, rollout: Rollout, step: int) -> Mixed:
        """What every step of the fragment is worth, and where that came from."""
        fragment = rollout.fragment
        feedback = np.zeros(fragment.shape, np.float32)
        learn = np.ones(fragment.shape, bool)
        weight = self._weight(step)
        pins = self._pin(rollout.episodes, weight)
        belief = beliefs_of(rollout.episodes, pins[1], self._scorers)
        origin = self._pay(rollout.episodes, rollout.episode_cells, belief, pins, feedback)
        open_pins = self._pin(rollout.open, weight)
        self._pay(
            rollout.open, rollout.open_cells, beliefs_of(rollout.open, open_pins[1], self._scorers), open_pins, feedback
        )
        late = self._late(rollout.episodes, pins[0])
        self._held += hold_back(rollout, np.flatnonzero(late), belief, pins, self.iteration)
        dropped = origin == DROPPED
        for _, first, end in rollout.episode_cells[dropped & ~late].tolist():
            self._tally.dropped_steps += end - first
        for column, first, end in rollout.episode_cells[dropped | late].tolist():
            learn[first:end, column] = False
        return Mixed(fragment.task_reward + feedback, feedback, learn, self._count(origin[~late]))

    def _late(self, episodes: EpisodeBatch, weight: Array) -> Array:
        """(E,) bool: a verdict is under way that would change what the episode is learned from on. Where it was waited
        for in vain, it is paid for all the same."""
        if self.config.feedback.late == "rm" or self.config.mix.source not in ("direct", "hybrid"):
            return np.zeros(len(episodes), bool)
        return np.array([i in self._awaited for i in episodes.episode_id.tolist()], bool) & (weight > 0)

    def release(self) -> list[tuple[Fragment, Mixed]]:
        """Parts that were kept back and whose verdict has come, failed to come, or is past its deadline."""
        deadline = self.iteration - self.config.feedback.defer_iterations
        due = [h for h in self._held if h.episode_id not in self._awaited or h.iteration <= deadline]
        waiting = {held.episode_id for held in self._held} - {held.episode_id for held in due}
        self._held = [held for held in self._held if held.episode_id in waiting]
        released = []
        for held in due:
            feedback = np.zeros(held.fragment.shape, np.float32)
            pins = (np.array([held.weight]), np.array([held.version]))
            origin = self._pay(held.episode, held.cells, held.belief, pins, feedback)
            learn = np.full(held.fragment.shape, origin[0] != DROPPED)
            waited = self.iteration - held.iteration
            self._tally.waited.append(waited)
            self._tally.dropped_steps += int((~learn).sum())
            self.lateness.missed += held.episode_id in self._awaited
            reward = held.fragment.task_reward + feedback
            released.append((held.fragment, Mixed(reward, feedback, learn, self._count(origin, waited))))
        return released

    def _count(self, origin: Array, waited: int = 0) -> dict[str, int]:
        """Complete episodes by provenance; added to the run's totals."""
        self._tally.origins.append(origin)
        self.lateness.learned(origin, waited)
        counts = {name: int((origin == i).sum()) for i, name in enumerate(PROVENANCE)}
        for name, count in counts.items():
            self.totals[name] += count
        return counts

    def _weight(self, step: int) -> float:
        """The schedule's weight; its ramp begins when there is something to pay with."""
        mix = self.config.mix
        ready = self.version > 0 or (mix.credit == "terminal" and mix.source != "distilled")
        if mix.source == "none" or step < mix.start_step or (self.ramp_from is None and not ready):
            return 0.0
        if self.ramp_from is None:
            self.ramp_from = step
        return feedback_weight(step - self.ramp_from + mix.start_step, mix)

    def _pay(
        self, episodes: EpisodeBatch, cells: Array, belief: Array, pins: tuple[Array, Array], into: Array
    ) -> Array:
        """Put the feedback reward of the episodes' parts into a fragment's (T, N); returns (E,) provenance."""
        mix = self.config.mix
        weight, version = pins
        ids = episodes.episode_id.tolist()
        verdict = np.array([self._verdicts.get(i, math.nan) for i in ids])
        abstained = np.array([i in self._abstained for i in ids], bool)
        origin = provenance(mix, np.where(episodes.complete, verdict, np.nan), abstained, version * (weight > 0))
        origin[weight == 0] = 0
        paid = np.isin(origin, (DIRECT, DISTILLED))
        value = np.where(origin == DIRECT, verdict, belief[episodes.obs_offsets[1:] - 1])
        paid_by = belief if mix.unjudged == "rm" else hold_until_paid(belief, episodes, cells)
        reward = credit(mix.credit, episodes, paid_by, value, weight * paid, self.config.ppo.gamma)
        scatter(reward, episodes, cells, into)
        scored = episodes.complete & (version > 0)
        if scored.any():
            self._tally.proxies += belief[episodes.obs_offsets[1:] - 1][scored].tolist()
        return origin

    def _pin(self, episodes: EpisodeBatch, weight_now: float) -> tuple[Array, Array]:
        """(E,) weight and version of each episode: those of its first scoring; remembered while it runs."""
        now = (weight_now, self.version, self.iteration)
        pins = [self._pins.pop(i, now)[:2] for i in episodes.episode_id.tolist()]
        begun = episodes.lengths > 0
        for i, pin, is_open, has_begun in zip(
            episodes.episode_id.tolist(), pins, ~episodes.complete, begun, strict=True
        ):
            if is_open and has_begun:
                self._pins[i] = (*pin, self.iteration)
        weights, versions = zip(*pins, strict=True) if pins else ((), ())
        return np.array(weights, np.float64), np.array(versions, np.int64)

    # ------------------------------------------------------------------------------------------ look, stop, go on

    def end_iteration(self, step: int) -> dict[str, dict[str, float]]:
        """Figures of the iteration by room; begins the next."""
        tally, self._tally = self._tally, Tally()
        self.iteration += 1
        self._verdicts.clear()
        self._abstained.clear()
        self._pins = {i: pin for i, pin in self._pins.items() if pin[2] >= self.iteration - _FORGET_AFTER}
        self.lateness.dropped_steps += tally.dropped_steps
        figures = {"mix": tally.mix_figures(self._weight_now(step))}
        if self.pool is not None:
            stats = self.pool.stats()
            self._plan = self._plan.measured(stats.latency_s)
            figures["feedback"] = tally.feedback_figures(stats, self.pool.in_flight)
        if self._trainer is not None:
            figures["rm"] = tally.rm_figures(self.report, self.version)
        return figures

    def _weight_now(self, step: int) -> float:
        if self.ramp_from is None:
            return 0.0
        return feedback_weight(step - self.ramp_from + self.config.mix.start_step, self.config.mix)

    def state(self) -> dict[str, Any]:
        """For a checkpoint: everything but what was paid, which is in the store and referred to by position."""
        return {
            "iteration": self.iteration,
            "ramp_from": self.ramp_from,
            "version": self.version,
            "scorers": dict(self._states),
            "report": self.report,
            "reports": list(self.reports),
            "totals": dict(self.totals),
            "lateness": copy.deepcopy(self.lateness),
            "rng": self._rng.bit_generator.state,
            "trainer": self._trainer.state() if self._trainer is not None else {},
            "held": list(self._held),
            "store_position": self._last_position,
        }

    def restore(self, state: Mapping[str, Any], labelled: Sequence[tuple[Units, float]] = ()) -> None:
        """Go on from a checkpoint. ``labelled``: every label in the store, also those that came after it."""
        self.iteration, self.ramp_from, self.version = state["iteration"], state["ramp_from"], state["version"]
        self._states = dict(state["scorers"])
        self._scorers = {v: self._load(s) for v, s in self._states.items()}
        self.report, self.reports, self.totals = state["report"], list(state["reports"]), dict(state["totals"])
        self._rng.bit_generator.state = state["rng"]
        self._last_position = state["store_position"]
        self.lateness = copy.deepcopy(state.get("lateness", Lateness()))  # older checkpoints have none
        self._pins.clear()
        self._held = list(state["held"])
        if self._trainer is not None:
            self._trainer.restore(state["trainer"])
        self.take_up(labelled)

    def take_up(self, labelled: Sequence[tuple[Units, float]]) -> None:
        """Verdicts that an earlier process of this run paid for: parts kept back may have theirs, and all train."""
        held = {h.episode_id for h in self._held}
        known = {e.episode_id: value for e, value in labelled if isinstance(e, Episode)}
        self._verdicts = {i: value for i, value in known.items() if i in held}
        if self._trainer is not None and labelled:
            self._trainer.add([e for e, _ in labelled], [v for _, v in labelled])

    def drain(self, deadline_s: float) -> None:
        """Wait for the answers still out, which are paid for and stored; put no further question."""
        if self.pool is not None:
            self.pool.hush()
            self._guarded(self.pool.poll)
            self._wait_for_answers(deadline_s)

    def pool_stats(self) -> Any:
        """The pool's account; None where nothing is asked."""
        return None if self.pool is None else self.pool.stats()

    def close(self) -> None:
        if self.pool is not None:
            self.pool.close()
        if self._trainer is not None:
            self._trainer.close()


def _no_scorer(state: Mapping[str, Any]) -> Scorer:
    raise JudgeError(f"a run without feedback was given a reward model (version {state.get('version')})")
