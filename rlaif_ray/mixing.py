"""Episodes + verdicts + scores -> rewards, with the provenance of each. Pure functions of arrays.

Notation: an episode of length L has observations 0..L and actions 0..L-1; ``Phi_t`` is the reward model's belief after
observations 0..t, ``v`` the verdict's value in [0, 1], ``w`` the weight. Both ``w`` and the reward model's version are
those of the episode's first scoring and stay fixed until it ends: a sum of differences only telescopes under one
``Phi``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rlaif_ray.config import MixConfig
from rlaif_ray.errors import EnvError, ShapeError
from rlaif_ray.packed import packed_ranges
from rlaif_ray.types import Array, EpisodeBatch, Fragment, RewardModelReport, Scale

__all__ = [
    "ABSTAINED",
    "DIRECT",
    "DISTILLED",
    "DROPPED",
    "PROVENANCE",
    "TASK",
    "Mixed",
    "check_gate",
    "credit",
    "feedback_weight",
    "gate",
    "generalized_advantages",
    "hold_until_paid",
    "margin_over",
    "needs_belief",
    "normalised",
    "provenance",
    "scatter",
    "standardize",
    "with_belief",
]

TASK, DISTILLED, DIRECT, ABSTAINED, DROPPED = range(5)
PROVENANCE = ("task", "distilled", "direct", "abstained", "dropped")
Credit = Literal["terminal", "potential", "redistribute", "step"]
YES = 0.5  # a belief or verdict above it lets a gate open


@dataclass(frozen=True)
class Mixed:
    """What the learner is given for one fragment, and where it came from."""

    reward: Array  # (T, N) float32: task + w * feedback; this is what trains and what is logged
    feedback: Array  # (T, N) float32: the weighted feedback part of it
    learn: Array  # (T, N) bool: False where a step is dropped
    counts: Mapping[str, int]  # completed episodes by provenance
    # Where the critic takes a belief, (T, N) float32: Phi at each observation, and at the one that follows it.
    belief: Array | None = None
    next_belief: Array | None = None


def feedback_weight(step: int, mix: MixConfig, margin: float = 1.0) -> float:
    """Weight of the feedback reward at an environment step: 0 while task-only, a linear ramp, then ``mix.weight``.

    ``margin``: how far the reward model's held-out accuracy is above its gate, 0 to 1; counts where the schedule is
    ``gated``.
    """
    if mix.source == "none" or step < mix.start_step:
        return 0.0
    full = mix.weight * (margin if mix.weight_schedule == "gated" else 1.0)
    if mix.ramp_steps == 0:
        return full
    return full * min(1.0, (step - mix.start_step) / mix.ramp_steps)


def margin_over(gate_accuracy: float, report: RewardModelReport | None) -> float:
    """How far a version is above its gate, 0 (at it, or below) to 1 (never wrong): (a - gate) / (1 - gate), where a is
    what the gate goes by (``exam_accuracy``): the balanced held-out accuracy on the newest policy versions, or on them
    and an anchor; the plain one where a class is missing."""
    if report is None:
        return 0.0
    pooled = report.heldout_accuracy if math.isnan(report.balanced_accuracy) else report.balanced_accuracy
    accuracy = report.extra.get("exam_accuracy", pooled)
    margin = (accuracy - gate_accuracy) / (1.0 - gate_accuracy)
    return min(1.0, max(0.0, margin)) if math.isfinite(margin) else 0.0


def needs_belief(mix: MixConfig) -> bool:
    """Whether a verdict alone, without a reward model, can't be paid: differences of belief need one, and so does a
    scale."""
    return mix.credit != "terminal" or mix.normalise


def provenance(mix: MixConfig, verdict: Array, abstained: Array, version: Array) -> Array:
    """(E,) where each complete episode's feedback comes from.

    Args:
        verdict: (E,) float, nan where there is none (not asked, not yet answered, or abstained).
        abstained: (E,) bool, the judge was asked and gave no usable answer.
        version: (E,) int, reward-model version pinned to the episode; 0 for none.
    """
    judged = ~np.isnan(verdict)
    payable = (version > 0) | (not needs_belief(mix))
    direct = judged & payable & (mix.source in ("direct", "hybrid"))
    scored = (version > 0) & (mix.source in ("distilled", "hybrid")) & (mix.unjudged == "rm")
    # What the judge would not answer has no verdict either: harm that it refuses to look at is not left to the task.
    drops = mix.unjudged == "drop" and mix.source != "none"
    rest = np.where(drops, DROPPED, np.where(abstained, ABSTAINED, TASK))
    out = np.where(direct, DIRECT, np.where(scored, DISTILLED, rest))
    return out.astype(np.int8)


def credit(kind: Credit, episodes: EpisodeBatch, belief: Array, value: Array, weight: Array, gamma: float) -> Array:
    """Feedback reward of every action, (A,) float32, packed as the batch's actions.

    Args:
        belief: (S,) Phi at every observation; ignored by ``terminal``.
        value: (E,) v of complete episodes: the verdict, or the belief at the end; ignored where an episode is open.
        weight: (E,) w.

    ``terminal``: w v at the end.
    ``potential``: w (gamma Phi_{t+1} - Phi_t), with Phi = 0 in a terminal state, plus w v at the end (Ng et al. 1999:
    the best policy is that of ``terminal``). A truncated episode keeps its last Phi: the learner bootstraps there.
    At a time limit both pay v and the learner expects it once more from beyond: where stalling is approved of and the
    task pays little, a time limit's verdict is worth more than an ending's (``redistribute`` pays what is left of v).
    ``redistribute``: w (Phi_{t+1} - Phi_t), with Phi_L = v: sums to w (v - Phi_0).
    ``step``: w Phi_{t+1}, the belief at the state that the action led to, with Phi_L = v: a state's own reward, for
    tasks whose value lies in how each moment looks (Wang et al. 2024, arXiv:2402.03681).

    Raises ShapeError.
    """
    if belief.shape != (len(episodes.obs),) or value.shape != (len(episodes),) or weight.shape != (len(episodes),):
        raise ShapeError(
            f"credit: got belief {belief.shape}, value {value.shape}, weight {weight.shape}; expected "
            f"({len(episodes.obs)},), ({len(episodes)},), ({len(episodes)},)"
        )
    E, lengths = len(episodes), episodes.lengths
    reward = np.zeros(len(episodes.actions), np.float32)
    per_action_w = np.repeat(weight, lengths)
    ended = episodes.complete & (lengths > 0)
    last_action = (np.cumsum(lengths) - 1)[ended]
    if kind != "terminal":
        after = np.delete(belief, episodes.obs_offsets[:-1])
        before = np.delete(belief, episodes.obs_offsets[1:] - 1)
        after = after.astype(np.float64)
        if kind in ("redistribute", "step"):
            after[last_action] = value[ended]
            reward = per_action_w * (after - before if kind == "redistribute" else after)
        else:
            after[last_action[episodes.terminated[ended]]] = 0.0
            reward = per_action_w * (gamma * after - before)
    if kind in ("terminal", "potential") and E:
        reward[last_action] += weight[ended] * value[ended]
    return reward.astype(np.float32)


def normalised(
    belief: Array, value: Array, scale: Sequence[Scale], lengths: Array, credit: Credit
) -> tuple[Array, Array]:
    """(S,) beliefs and (E,) values in standard deviations from the mean of each episode's own version.

    Both are probabilities of approval, so one scale serves both: that of single states for ``step``, of episodes' ends
    else. A difference of beliefs loses the mean and keeps the unit.

    Args:
        scale: (E,) of the version that each episode is scored by.
        lengths: (E,) actions in each episode.
    """
    names = ("step_mean", "step_std") if credit == "step" else ("end_mean", "end_std")
    mean, std = (np.array([getattr(one, name) for one in scale], np.float64) for name in names)
    rows = lengths + 1
    return (belief - np.repeat(mean, rows)) / np.repeat(std, rows), (value - mean) / std


def gate(mix: MixConfig, episodes: EpisodeBatch, value: Array, weight: Array) -> Array:
    """What each complete episode's task reward changes by in its last step, (E,) float32; 0 for open ones.

    With yes = 1[value > 1/2], the task reward R of an episode of t steps and w in [0, 1]:

        w (yes R - R)                      it terminated, ``gate_penalty`` c none
        w (yes 1[R > 0] (1 - c t / T) - R) it terminated, with c and ``gate_steps`` T
        w (yes R_trunc - R)                it was cut off by time, with ``gate_truncated`` R_trunc

    so that at w = 1 task and feedback together pay the gated reward. In Homegrid, where R = 1 - 0.9 t / 100, the
    published (c, R_trunc) = (0.9, 0.01) needs R_trunc alone and (0.8, 0.1) needs c and T = 100 as well.

    Args:
        value: (E,) the verdict, or the belief at the end.
        weight: (E,) w; 0 for episodes that nothing gates.
    """
    task = episodes.task_return.astype(np.float64)
    success = task
    if mix.gate_penalty is not None and mix.gate_steps is not None:
        success = (task > 0) * (1.0 - mix.gate_penalty * episodes.lengths / mix.gate_steps)
    gated = (value > YES) * np.where(episodes.terminated, success, mix.gate_truncated)
    return np.where(episodes.complete, weight * (gated - task), 0.0).astype(np.float32)


def check_gate(fragment: Fragment) -> None:
    """Raises EnvError: the world pays before an episode's end, and what has been paid can't be gated any more."""
    if fragment.task_reward[~(fragment.terminated | fragment.truncated)].any():
        raise EnvError(
            "mix.combine: got 'gate' in a world that pays task reward before an episode's end; allowed there is 'add'"
        )


def hold_until_paid(kind: Credit, belief: Array, episodes: EpisodeBatch, cells: Array, gamma: float) -> Array:
    """(S,) belief that stays at Phi_0 until an episode's part in this fragment begins.

    Where episodes without a verdict are not paid, those still open aren't either (nobody knows yet whether they will
    be judged). A verdict at the end then pays what is due for the earlier parts, k steps, with the first step of the
    last one: ``redistribute`` still sums to w (v - Phi_0); ``potential``, which leaves Phi_0 / gamma^k before it, still
    is -w Phi_0 when discounted from the episode's start, which is what leaves the best policy as it is.
    """
    earlier = episodes.lengths - (cells[:, 2] - cells[:, 1])
    starts = episodes.obs_offsets[:-1]
    held = belief.astype(np.float64)
    held[packed_ranges(starts, earlier + 1)] = np.repeat(belief[starts], earlier + 1)
    if kind == "potential":
        held[starts + earlier] /= gamma**earlier
    return held


def scatter(packed: Array, episodes: EpisodeBatch, cells: Array, into: Array) -> None:
    """Put per-action values of the parts that lie in a fragment into its (T, N) array.

    ``cells`` (E, 3): column, first row, end row of each episode's part, which is the end of the episode so far.
    """
    inside = cells[:, 2] - cells[:, 1]
    column = np.repeat(cells[:, 0], inside)
    row = packed_ranges(cells[:, 1], inside)
    into[row, column] = packed[packed_ranges(np.cumsum(episodes.lengths) - inside, inside)]


def with_belief(fragment: Fragment, mixed: Mixed) -> Fragment:
    """The fragment with its critic's values (T, N): V = c + (2 Phi - 1) d of the two numbers in ``fragment.value``, as
    the acting policy gave them. One whose critic takes no belief is left as it is. Raises ShapeError.
    """
    if fragment.value.ndim == 2:
        return fragment
    if mixed.belief is None or mixed.next_belief is None:
        raise ShapeError("fragment of a critic that takes a belief: got none, expected (T, N) Phi")
    value, following = (
        (heads[..., 0] + (2 * belief - 1) * heads[..., 1]).astype(np.float32)
        for heads, belief in ((fragment.value, mixed.belief), (fragment.next_value, mixed.next_belief))
    )
    return replace(fragment, value=value, next_value=following)


def generalized_advantages(fragment: Fragment, reward: Array, gamma: float, lambda_: float) -> tuple[Array, Array]:
    """GAE (Schulman et al. 2016, arXiv:1506.02438, eq. 16) on columns.

    delta_t = r_t + gamma V_{t+1} - V_t and A_t = delta_t + gamma lambda A_{t+1}, where A stops at an episode's end and
    V_{t+1} is ``fragment.next_value`` at cuts (0 after a termination).

    Returns (T, N) float32 advantages and value targets A + V.
    """
    T, _ = fragment.shape
    done = fragment.terminated | fragment.truncated
    following = np.empty_like(fragment.value)
    following[:-1] = np.where(done[:-1], fragment.next_value[:-1], fragment.value[1:])
    following[-1] = fragment.next_value[-1]
    delta = reward + gamma * following - fragment.value
    carry = (gamma * lambda_) * ~done
    advantage = np.empty_like(delta)
    running = np.zeros_like(delta[0])
    for t in reversed(range(T)):
        running = delta[t] + carry[t] * running
        advantage[t] = running
    return advantage.astype(np.float32), (advantage + fragment.value).astype(np.float32)


def standardize(advantage: Array) -> Array:
    """Mean 0, deviation 1 over the whole batch; a deviation below 1e-4 is taken as 1e-4, as RLlib does."""
    out: Array = ((advantage - advantage.mean()) / max(1e-4, float(advantage.std()))).astype(np.float32)
    return out
