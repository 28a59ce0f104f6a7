"""What every step of a fragment is worth: which weight and version an episode is paid by, and when.

``Payer`` holds what paying must remember between iterations: the weight and reward-model version that each running
episode began under, and parts kept back for a late verdict. What a payment comes to is ``mixing``'s.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlaif_ray.config import Config
from rlaif_ray.deferral import Held, hold_back
from rlaif_ray.lateness import Lateness
from rlaif_ray.mixing import (
    DIRECT,
    DISTILLED,
    DROPPED,
    PROVENANCE,
    Mixed,
    check_gate,
    credit,
    feedback_weight,
    gate,
    hold_until_paid,
    margin_over,
    needs_belief,
    normalised,
    provenance,
    scatter,
)
from rlaif_ray.scorebook import Score, scores_of
from rlaif_ray.scoring import Remembering, beliefs_of
from rlaif_ray.tally import Tally
from rlaif_ray.types import Array, EpisodeBatch, Fragment, RewardModelReport, Rollout, Scale
from rlaif_ray.watch import Audited

__all__ = ["FORGET_AFTER", "Known", "Payer"]

# An open episode not seen for so many iterations went with its runner.
FORGET_AFTER = 100


@dataclass(frozen=True)
class Known:
    """What asking and learning to judge have come to by now."""

    verdicts: Mapping[int, float]  # episode -> the verdict's value, of those that came since the last iteration's end
    inclusion: Mapping[int, float]  # episode asked about -> probability of that; inf: no draw asked for it
    abstained: Collection[int]
    awaited: Collection[int]
    scorers: Mapping[int, Remembering]  # by version
    version: int  # of the reward model, for episodes that begin now; 0: none
    fresh: int  # version that came since the last iteration's end; 0: none
    report: RewardModelReport | None  # on the version in service
    iteration: int
    made: Mapping[int, int]  # version of the policy -> environment steps of the run when it was made


@dataclass(frozen=True)
class _Pinned:
    """Episodes with what is fixed about each: weight and version (E,), and that version's belief (S,)."""

    episodes: EpisodeBatch
    cells: Array  # (E, 3) where each one's part lies in its fragment
    belief: Array
    weight: Array
    version: Array

    @property
    def final(self) -> Array:
        """(E,) belief at each episode's last observation so far."""
        final: Array = self.belief[self.episodes.obs_offsets[1:] - 1]
        return final


class Payer:
    """Says what every step is worth; ``ramp_from`` is the step at which the feedback reward began to count."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.ramp_from: int | None = None
        self.totals = dict.fromkeys(PROVENANCE, 0)
        self.lateness = Lateness()
        self.held: list[Held] = []  # late parts, in the order in which their episodes ended
        self.scored: list[Score] = []  # of episodes asked about, until somebody takes them
        # Ended episode with a question out -> steps when its policy was made, its version's belief.
        self._promises: dict[int, tuple[int, float]] = {}
        self.pins: dict[int, tuple[float, int, int]] = {}  # running episode -> weight, version, iteration last seen

    # ------------------------------------------------------------------------------------------ pay

    def mix(self, rollout: Rollout, step: int, known: Known, tally: Tally) -> Mixed:
        """What every step of the fragment is worth, and where that came from."""
        fragment = rollout.fragment
        if self.config.mix.combine == "gate":
            check_gate(fragment)
        feedback = np.zeros(fragment.shape, np.float32)
        learn = np.ones(fragment.shape, bool)
        weight = self._weight(step, known)
        version = _first_version(rollout, known)
        ended = self._pinned(rollout.episodes, rollout.episode_cells, (weight, version), known)
        origin = self._pay(ended, feedback, known, tally)
        tally.proxies += ended.final[ended.version > 0].tolist()  # here alone: a part kept back is paid once more
        self._promise(ended, known)
        asked = (known.awaited, known.verdicts, known.abstained)
        self.scored += scores_of(ended.episodes, ended.version, ended.final, asked, step)
        running = self._pinned(rollout.open, rollout.open_cells, (weight, version), known)
        self._pay(running, feedback, known, tally)
        late = self._late(ended, known)
        pins = (ended.weight, ended.version)
        self.held += hold_back(rollout, np.flatnonzero(late), ended.belief, pins, known.iteration)
        dropped = origin == DROPPED
        for _, first, end in rollout.episode_cells[dropped & ~late].tolist():
            tally.dropped_steps += end - first
        for column, first, end in rollout.episode_cells[dropped | late].tolist():
            learn[first:end, column] = False
        counts = self._count(origin[~late], tally)
        return Mixed(fragment.task_reward + feedback, feedback, learn, counts, *self._seen((ended, running), feedback))

    def release(self, known: Known, tally: Tally) -> list[tuple[Fragment, Mixed]]:
        """Parts that were kept back and whose verdict has come, failed to come, or is past its deadline."""
        deadline = known.iteration - self.config.feedback.defer_iterations
        due = [h for h in self.held if h.episode_id not in known.awaited or h.iteration <= deadline]
        waiting = {held.episode_id for held in self.held} - {held.episode_id for held in due}
        self.held = [held for held in self.held if held.episode_id in waiting]
        released = []
        for held in due:
            feedback = np.zeros(held.fragment.shape, np.float32)
            pinned = _Pinned(held.episode, held.cells, held.belief, np.array([held.weight]), np.array([held.version]))
            origin = self._pay(pinned, feedback, known, tally)
            learn = np.full(held.fragment.shape, origin[0] != DROPPED)
            waited = known.iteration - held.iteration
            tally.waited.append(waited)
            tally.dropped_steps += int((~learn).sum())
            self.lateness.missed += held.episode_id in known.awaited
            reward = held.fragment.task_reward + feedback
            counts = self._count(origin, tally, waited)
            released.append((held.fragment, Mixed(reward, feedback, learn, counts, *self._seen((pinned,), feedback))))
        return released

    def _seen(self, parts: Sequence[_Pinned], like: Array) -> tuple[Array, Array] | tuple[()]:
        """(T, N) belief at each observation and at the next one, for a critic that takes it. Where an episode has no
        version it is 1/2, which tells nothing: such a critic is then one without."""
        if not self.config.policy.critic_belief:
            return ()
        now, following = np.full_like(like, 0.5), np.full_like(like, 0.5)
        for part in parts:
            episodes = part.episodes
            known = np.repeat(part.version > 0, episodes.lengths + 1)
            belief = np.where(known, part.belief, 0.5).astype(np.float32)
            scatter(np.delete(belief, episodes.obs_offsets[1:] - 1), episodes, part.cells, now)
            scatter(np.delete(belief, episodes.obs_offsets[:-1]), episodes, part.cells, following)
        return now, following

    def _promise(self, ended: _Pinned, known: Known) -> None:
        """Note what is believed of episodes asked about, by versions that can't have learned their verdicts."""
        oldest = min(known.made.values())  # stands for those that are no longer known
        episodes = ended.episodes
        for i, policy, version, belief in zip(
            episodes.episode_id.tolist(),
            episodes.policy_version.tolist(),
            ended.version.tolist(),
            ended.final.tolist(),
            strict=True,
        ):
            answered = i in known.verdicts
            if version and (i in known.awaited or (answered and version != known.fresh)):
                self._promises[i] = known.made.get(policy, oldest), belief

    def promised(self, verdicts: Mapping[int, float], awaited: Collection[int]) -> list[Audited]:
        """Episodes whose verdicts have come; forgets those whose verdicts can't come any more."""
        found = [Audited(*self._promises.pop(i), verdict) for i, verdict in verdicts.items() if i in self._promises]
        self._promises = {i: promise for i, promise in self._promises.items() if i in awaited}
        return found

    def _late(self, ended: _Pinned, known: Known) -> Array:
        """(E,) bool: a verdict is under way that would change what the episode is learned from on. Where it was waited
        for in vain, it is paid for all the same."""
        if self.config.feedback.late == "rm" or self.config.mix.source not in ("direct", "hybrid"):
            return np.zeros(len(ended.episodes), bool)
        ids = ended.episodes.episode_id.tolist()
        return np.array([i in known.awaited for i in ids], bool) & (ended.weight > 0)

    def _count(self, origin: Array, tally: Tally, waited: int = 0) -> dict[str, int]:
        """Complete episodes by provenance; added to the run's totals."""
        tally.origins.append(origin)
        self.lateness.learned(origin, waited)
        counts = {name: int((origin == i).sum()) for i, name in enumerate(PROVENANCE)}
        for name, count in counts.items():
            self.totals[name] += count
        return counts

    def _pay(self, pinned: _Pinned, into: Array, known: Known, tally: Tally) -> Array:
        """Put the feedback reward of the episodes' parts into a fragment's (T, N); returns (E,) provenance."""
        mix, episodes, weight = self.config.mix, pinned.episodes, pinned.weight
        ids = episodes.episode_id.tolist()
        verdict = np.array([known.verdicts.get(i, math.nan) for i in ids])
        abstained = np.array([i in known.abstained for i in ids], bool)
        judged = np.where(episodes.complete, verdict, np.nan)
        origin = provenance(mix, judged, abstained, pinned.version * (weight > 0))
        origin[weight == 0] = 0
        paid = np.isin(origin, (DIRECT, DISTILLED))
        value = np.where(origin == DIRECT, verdict, pinned.final)
        if mix.unjudged == "reweight":
            stands_for = 1.0 / np.array([known.inclusion.get(i, 1.0) for i in ids])
            tally.stands_for += stands_for[origin == DIRECT].tolist()
            weight = weight * np.minimum(stands_for, mix.reweight_clip)
        scatter(self._reward(pinned, value, weight * paid, known), episodes, pinned.cells, into)
        return origin

    def _reward(self, pinned: _Pinned, value: Array, weight: Array, known: Known) -> Array:
        """(A,) feedback reward of every action; (E,) ``weight`` is 0 where nothing is paid."""
        mix, episodes, belief = self.config.mix, pinned.episodes, pinned.belief
        if mix.combine == "gate":
            reward = np.zeros(len(episodes.actions), np.float32)
            ended = episodes.complete & (episodes.lengths > 0)
            reward[(np.cumsum(episodes.lengths) - 1)[ended]] = gate(mix, episodes, value, weight)[ended]
            return reward
        if mix.normalise:
            scale = [known.scorers[v].scale if v else Scale() for v in pinned.version.tolist()]
            belief, value = normalised(belief, value, scale, episodes.lengths, mix.credit)
        if mix.unjudged != "rm":
            belief = hold_until_paid(mix.credit, belief, episodes, pinned.cells, self.config.ppo.gamma)
        return credit(mix.credit, episodes, belief, value, weight, self.config.ppo.gamma)

    # ------------------------------------------------------------------------------------------ weights and versions

    def _weight(self, step: int, known: Known) -> float:
        """The schedule's weight; its ramp begins when there is something to pay with."""
        mix = self.config.mix
        ready = known.version > 0 or not (needs_belief(mix) or mix.source == "distilled")
        if mix.source == "none" or step < mix.start_step or (self.ramp_from is None and not ready):
            return 0.0
        if self.ramp_from is None:
            self.ramp_from = step
        return self.weight_now(step, known)

    def weight_now(self, step: int, known: Known) -> float:
        """Of an episode that begins at this step."""
        if self.ramp_from is None:
            return 0.0
        mix = self.config.mix
        margin = 1.0
        if mix.weight_schedule == "gated":
            margin = margin_over(self.config.reward_model.gate_accuracy, known.report) if known.version else 0.0
        return feedback_weight(step - self.ramp_from + mix.start_step, mix, margin)

    def _pinned(self, episodes: EpisodeBatch, cells: Array, first: tuple[float, int], known: Known) -> _Pinned:
        """Weight and version of each episode are those of its ``first`` scoring; remembered while it runs."""
        now = (*first, known.iteration)
        ids = episodes.episode_id.tolist()
        pins = [self.pins.pop(i, now)[:2] for i in ids]
        begun = episodes.lengths > 0
        for i, pin, is_open, has_begun in zip(ids, pins, ~episodes.complete, begun, strict=True):
            if is_open and has_begun:
                self.pins[i] = (*pin, known.iteration)
        weights, versions = zip(*pins, strict=True) if pins else ((), ())
        version = np.array(versions, np.int64)
        belief = beliefs_of(episodes, version, known.scorers)
        return _Pinned(episodes, cells, belief, np.array(weights, np.float64), version)

    @property
    def versions(self) -> set[int]:
        """Versions that are still needed: of running episodes, and of parts kept back."""
        return {version for _, version, _ in self.pins.values()} | {held.version for held in self.held}

    # ------------------------------------------------------------------------------------------ go on

    def end_iteration(self, iteration: int, dropped_steps: int) -> None:
        """Forget what nobody will ask for again."""
        self.pins = {i: pin for i, pin in self.pins.items() if pin[2] >= iteration - FORGET_AFTER}
        self.lateness.dropped_steps += dropped_steps

    def state(self) -> dict[str, Any]:
        """For a checkpoint. Running episodes end with it: their pins aren't in it."""
        return {
            "ramp_from": self.ramp_from,
            "totals": dict(self.totals),
            "lateness": copy.deepcopy(self.lateness),
            "held": list(self.held),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.ramp_from, self.totals = state["ramp_from"], dict(state["totals"])
        self.lateness = copy.deepcopy(state.get("lateness", Lateness()))  # older checkpoints have none
        self.held = list(state["held"])
        self.pins.clear()
        self._promises.clear()


def _first_version(rollout: Rollout, known: Known) -> int:
    """What episodes that began in this fragment were first scored by: the runner's version, if it may still count."""
    return rollout.scored_by if known.version and rollout.scored_by in known.scorers else known.version
