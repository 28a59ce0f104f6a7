"""The feedback half of a training step, without RLlib: ask, learn to judge, mix.

``FeedbackLoop`` is what ``FeedbackPPO`` talks to. It is handed a pool (which asks) and a reward model (which learns in
its own actor), and holds only what must be remembered between iterations: which episodes await an answer, and which
versions of the reward model are in use. What the answers pay is ``paying.Payer``'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from rlaif_ray.config import Config
from rlaif_ray.errors import JudgeError
from rlaif_ray.lateness import Lateness, WaitPlan
from rlaif_ray.mixing import Mixed
from rlaif_ray.pairing import paired
from rlaif_ray.partners import Chooser, Judges, LearnsToJudge, Published, Scorer
from rlaif_ray.paying import Known, Payer
from rlaif_ray.scorebook import Score
from rlaif_ray.scoring import doubts_about
from rlaif_ray.tally import Tally
from rlaif_ray.types import Abstention, Episode, Fragment, Label, RewardModelReport, Rollout, Units
from rlaif_ray.watch import Watch

__all__ = ["FeedbackLoop"]

# Waits are cut into slices, between which whoever wants to stop is heard.
_SLICE_S = 1.0


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
        self.judge_error: JudgeError | None = None
        self.iteration = 0
        self.stopping: Callable[[], bool] = lambda: False  # asked while waiting
        self._awaited: dict[int, tuple[Units, int]] = {}  # asked episode (the first of two) -> what, since when
        self._verdicts: dict[int, float] = {}
        self._abstained: set[int] = set()
        self._last_position = 0
        self._plan = WaitPlan()
        self._tally = Tally()
        self.payer = Payer(config)
        self.watch = Watch(config.watch)
        self._fresh = 0  # version adopted since the last iteration's end; 0: none

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
                self._tally.audited[label.episode_id] = label.outcome.value  # all are drawn uniformly
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
                self._fresh = one.report.version
            self.version = one.report.version if one.report.gate_open and one.report.version in self._scorers else 0
        # The version in service stays at hand while the gate is shut: the next held-out labels may open it again.
        served = self.report.version if self.report is not None else 0
        kept = self.payer.versions | {self.version, served}
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
        return self.payer.mix(rollout, step, self._known(), self._tally)

    def release(self) -> list[tuple[Fragment, Mixed]]:
        """Parts that were kept back and whose verdict has come, failed to come, or is past its deadline."""
        return self.payer.release(self._known(), self._tally)

    def _known(self) -> Known:
        """What paying goes by."""
        return Known(
            verdicts=self._verdicts,
            abstained=self._abstained,
            awaited=self._awaited.keys(),
            scorers=self._scorers,
            version=self.version,
            fresh=self._fresh,
            report=self.report,
            iteration=self.iteration,
        )

    @property
    def totals(self) -> dict[str, int]:
        """Episodes learned from in this run's life, by provenance."""
        return self.payer.totals

    @property
    def lateness(self) -> Lateness:
        return self.payer.lateness

    # ------------------------------------------------------------------------------------------ look, stop, go on

    def take_scores(self) -> list[Score]:
        """The reward model's scores of episodes asked about, since they were last taken."""
        scores, self.payer.scored = self.payer.scored, []
        return scores

    def end_iteration(self, step: int) -> dict[str, dict[str, float]]:
        """Figures of the iteration by room; begins the next."""
        tally, self._tally = self._tally, Tally()
        self.iteration += 1
        self._verdicts.clear()
        self._abstained.clear()
        self.watch.take(self.payer.promised(tally.audited, self._awaited.keys()), step)
        self.payer.end_iteration(self.iteration, tally.dropped_steps)
        self._fresh = 0
        figures = {"mix": tally.mix_figures(self.payer.weight_now(step, self._known()))}
        if self.pool is not None:
            stats = self.pool.stats()
            self._plan = self._plan.measured(stats.latency_s)
            figures["feedback"] = tally.feedback_figures(stats, self.pool.in_flight)
        if self._trainer is not None:
            figures["rm"] = tally.rm_figures(self.report, self.version)
            figures["watch"] = self.watch.figures()
        return figures

    def state(self) -> dict[str, Any]:
        """For a checkpoint: everything but what was paid, which is in the store and referred to by position."""
        return {
            "iteration": self.iteration,
            "version": self.version,
            "scorers": dict(self._states),
            "report": self.report,
            "reports": list(self.reports),
            "rng": self._rng.bit_generator.state,
            "trainer": self._trainer.state() if self._trainer is not None else {},
            "store_position": self._last_position,
            **self.payer.state(),
            "watch": self.watch.state(),
        }

    def restore(self, state: Mapping[str, Any], labelled: Sequence[tuple[Units, float]] = ()) -> None:
        """Go on from a checkpoint. ``labelled``: every label in the store, also those that came after it."""
        self.iteration, self.version = state["iteration"], state["version"]
        self._states = dict(state["scorers"])
        self._scorers = {v: self._load(s) for v, s in self._states.items()}
        self.report, self.reports = state["report"], list(state["reports"])
        self._rng.bit_generator.state = state["rng"]
        self._last_position = state["store_position"]
        self.payer.restore(state)
        self.watch.restore(state.get("watch", {}))
        if self._trainer is not None:
            self._trainer.restore(state["trainer"])
        self.take_up(labelled)

    def take_up(self, labelled: Sequence[tuple[Units, float]]) -> None:
        """Verdicts that an earlier process of this run paid for: parts kept back may have theirs, and all train."""
        held = {h.episode_id for h in self.payer.held}
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
