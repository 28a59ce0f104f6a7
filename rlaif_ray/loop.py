"""The feedback half of a training step, without RLlib: ask, learn to judge, mix.

``FeedbackLoop`` is what ``FeedbackPPO`` talks to. It is handed a pool (which asks) and a reward model (which learns in
its own actor), and holds which versions of that are in use. Whom to ask and what was answered is ``asking.Asking``'s,
what the answers pay is ``paying.Payer``'s.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlaif_ray.asking import SLICE_S, Asking, Now
from rlaif_ray.config import Config
from rlaif_ray.errors import JudgeError
from rlaif_ray.lateness import Lateness
from rlaif_ray.mixing import Mixed
from rlaif_ray.partners import Chooser, Judges, LearnsToJudge, Published, Scorer
from rlaif_ray.paying import FORGET_AFTER, Known, Payer
from rlaif_ray.scorebook import Score
from rlaif_ray.scoring import Remembering
from rlaif_ray.tally import Tally
from rlaif_ray.types import Drawn, Episode, Fragment, Judged, PolicyVersion, RewardModelReport, Rollout
from rlaif_ray.watch import Watch

__all__ = ["FeedbackLoop"]


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
        self._load = load
        self._scorers: dict[int, Remembering] = {}
        self._states: dict[int, dict[str, Any]] = {}
        self.report: RewardModelReport | None = None
        self.reports: list[RewardModelReport] = []
        self.version = 0  # in use for episodes that begin now; 0: none
        self.iteration = 0
        self.stopping: Callable[[], bool] = lambda: False  # asked while waiting
        self._tally = Tally()
        self.asking = Asking(config, pool, trainer, choose=choose, compares=compares)
        self.asking.stopping = self._stops
        self.payer = Payer(config)
        self.watch = Watch(config.watch)
        self._in_runners: set[int] = set()  # versions that runners scored the newest fragments with; 0: none
        self._fresh = 0  # version adopted since the last iteration's end; 0: none
        # Environment steps at the ends of iterations: runners that sample one update ahead act by the policy of the one
        # before the last.
        ahead = config.resources.overlap and config.resources.env_runners > 0
        self._ended: deque[int] = deque([0], maxlen=2 if ahead else 1)
        self._made: dict[PolicyVersion, int] = {}  # version of the policy -> steps when it was made

    @classmethod
    def silent(cls, config: Config) -> FeedbackLoop:
        """A loop that asks nobody: every episode is learned from on its task reward."""
        return cls(config, None, None, choose=lambda *_: Drawn.none(), load=_no_scorer)

    def _stops(self) -> bool:
        return self.stopping()

    # ------------------------------------------------------------------------------------------ ask

    def ask(self, rollouts: Sequence[Rollout], step: int) -> None:
        """Put a budgeted fraction of the episodes just finished to the judge; take the answers that have come."""
        self._take_runners_scores(rollouts)
        self.asking.ask(rollouts, self._now(step))
        if self.pool is not None:
            self.pool.look()  # its figures come while the learner learns

    def _take_runners_scores(self, rollouts: Sequence[Rollout]) -> None:
        """Runners that have a reward model have looked at their episodes already, each beside the others."""
        self._in_runners = {rollout.scored_by for rollout in rollouts}
        for rollout in rollouts:
            for version, (ended, running) in rollout.scores.items():
                if version in self._scorers:
                    self._scorers[version].remember(rollout.episodes, ended)
                    self._scorers[version].remember(rollout.open, running)

    def _now(self, step: int = 0) -> Now:
        """What asking goes by."""
        return Now(self.iteration, self._tally, self.lateness, step, self.version, self._scorers.get(self.version))

    @property
    def judge_error(self) -> JudgeError | None:
        """Why the judge can't be asked any more; None: it can."""
        return self.asking.judge_error

    # ------------------------------------------------------------------------------------------ learn to judge

    def learn_to_judge(self, wait_s: float = 0.0) -> None:
        """Take the versions the trainer has published since; a version in use is swapped between iterations only."""
        if self._trainer is not None:
            self._adopt(self._trainer.wait(wait_s) if wait_s else self._trainer.poll())

    def learn_from(self, labelled: Sequence[Judged], source: str = "") -> None:
        """Hand labels to the trainer that this run has not asked for just now; ``source``: who did, empty: this run."""
        if self._trainer is not None and labelled:
            units, values, draws = zip(*((one.units, one.value, one.draw) for one in labelled), strict=True)
            self._trainer.add(units, values, draws, source)

    def _adopt(self, published: Sequence[Published]) -> None:
        for one in published:
            self.report = one.report
            self.reports.append(one.report)
            if one.state is not None:
                self._states[one.report.version] = one.state
                self._scorers[one.report.version] = Remembering(self._load(one.state))
                self._fresh = one.report.version
            self.version = one.report.version if one.report.gate_open and one.report.version in self._scorers else 0
        # The version in service stays at hand while the gate is shut: the next held-out labels may open it again.
        served = self.report.version if self.report is not None else 0
        kept = self.payer.versions | {self.version, served} | self._in_runners
        self._scorers = {v: s for v, s in self._scorers.items() if v in kept}
        self._states = {v: s for v, s in self._states.items() if v in kept}

    def hold(self, rollouts: Sequence[Rollout], step: int, deadline_s: float = 30.0) -> None:
        """While the feedback phase waits for the gate: ask about these episodes, wait for the answers and a fit."""
        if self.pool is None or self._trainer is None:
            return
        wanted = max(self.config.reward_model.retrain_every, self.config.reward_model.min_labels // 4)
        self.asking.ask_for(wanted, rollouts, self._now(step))
        self.asking.wait(deadline_s, self._now(step))
        end = time.monotonic() + deadline_s
        while not self.stopping() and (left := end - time.monotonic()) > 0:
            began = time.monotonic()
            published = self._trainer.wait(min(SLICE_S, left))
            self._adopt(published)
            if published or time.monotonic() - began < SLICE_S / 2:
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
        self._made.setdefault(rollout.fragment.policy_version, self._ended[0])
        return self.payer.mix(rollout, step, self._known(), self._tally)

    def release(self) -> list[tuple[Fragment, Mixed]]:
        """Parts that were kept back and whose verdict has come, failed to come, or is past its deadline."""
        return self.payer.release(self._known(), self._tally)

    def _known(self) -> Known:
        """What paying goes by."""
        return Known(
            verdicts=self.asking.verdicts,
            inclusion=self.asking.inclusion,
            abstained=self.asking.abstained,
            awaited=self.asking.awaited.keys(),
            scorers=self._scorers,
            version=self.version,
            fresh=self._fresh,
            report=self.report,
            iteration=self.iteration,
            made=self._made,
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
        self.asking.end_iteration({held.episode_id for held in self.payer.held})
        for scorer in self._scorers.values():
            scorer.forget()
        self.watch.take(self.payer.promised(tally.audited, self.asking.awaited.keys()), step)
        self.payer.end_iteration(self.iteration, tally.dropped_steps)
        self._fresh = 0
        self._ended.append(step)
        self._made = dict(list(self._made.items())[-FORGET_AFTER:])
        weight = self.payer.weight_now(step, self._known())
        figures = {"mix": tally.mix_figures(weight, self.config.mix.reweight_clip)}
        if self.pool is not None:
            stats = self.pool.stats()
            self.asking.measured(stats.latency_s)
            figures["feedback"] = tally.feedback_figures(stats, self.pool.in_flight)
        if self._trainer is not None:
            figures["rm"] = tally.rm_figures(self.report, self.version)
            figures["watch"] = self.watch.figures()
        return figures

    @property
    def in_service(self) -> dict[str, Any] | None:
        """State of the version of the reward model that counts; None: none does."""
        return self._states[self.version] if self.version else None

    def state(self) -> dict[str, Any]:
        """For a checkpoint: everything but what was paid, which is in the store and referred to by position."""
        return {
            "iteration": self.iteration,
            "version": self.version,
            "scorers": dict(self._states),
            "report": self.report,
            "reports": list(self.reports),
            "trainer": self._trainer.state() if self._trainer is not None else {},
            **self.asking.state(),
            **self.payer.state(),
            "watch": self.watch.state(),
        }

    def restore(
        self, state: Mapping[str, Any], labelled: Sequence[Judged] = (), published: int = 0, step: int = 0
    ) -> None:
        """Go on from a checkpoint. ``labelled``: every label in the store, also those that came after it;
        ``published``: the newest version of the reward model that this run has had, which may be newer too;
        ``step``: environment steps of the run by then."""
        self.iteration, self.version = state["iteration"], state["version"]
        self._states = dict(state["scorers"])
        self._scorers = {v: Remembering(self._load(s)) for v, s in self._states.items()}
        self.report, self.reports = state["report"], list(state["reports"])
        self.asking.restore(state)
        self.payer.restore(state)
        self.watch.restore(state.get("watch", {}))
        self._ended.clear()
        self._ended.append(step)
        self._made.clear()
        if self._trainer is not None:
            self._trainer.restore(state["trainer"])
        self.skip(published)
        self.take_up(labelled)

    def skip(self, version: int) -> None:
        """Versions of the reward model up to this one have been in use: the next ones have numbers above it."""
        if self._trainer is not None:
            self._trainer.skip(version)

    @property
    def newest_version(self) -> int:
        """Number of the newest version of the reward model that was taken, in use or not; 0: none."""
        return max((one.version for one in self.reports[-1:]), default=0)

    def take_up(self, labelled: Sequence[Judged]) -> None:
        """Verdicts that an earlier process of this run paid for: parts kept back may have theirs, and all train."""
        held = {h.key for h in self.payer.held}
        units = ((one.units, one.value) for one in labelled if isinstance(one.units, Episode))
        self.asking.recall({unit.episode_id: value for unit, value in units if unit.key in held})
        self.learn_from(labelled)

    def drain(self, deadline_s: float) -> None:
        """Wait for the answers still out, which are paid for and stored; put no further question."""
        self.asking.drain(deadline_s, self._now())

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
