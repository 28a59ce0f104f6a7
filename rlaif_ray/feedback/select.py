"""Which of the finished episodes are asked about: pure functions of a generator and of what is known of them.

Every design here is a random one whose inclusion probabilities are known and above 0, so that what is estimated from
the answers holds for all episodes, whatever was preferred (Horvitz & Thompson 1952; ``estimate.py``). With n expected
questions among E episodes, a share a of audit and a size s_e of what an episode is worth asking about::

    pi_e = a n / E  +  min(1 - a n / E, lambda s_e),        sum of pi_e = n

One systematic draw over the episodes in random order (Madow 1949) has these marginals exactly and n episodes exactly
(rounded up or down at random where n is no whole number). An episode that it draws belongs to the audit with
probability (a n / E) / pi_e: the audit is a sample in which every episode has the same chance, the rest follows s.

Questions about two episodes are drawn as such, m of them, or two audit episodes would hardly ever meet. K of the pairs
are the audit, a m on average: A, 2 K episodes, any as likely as any other. T, n = 2 m episodes by a systematic draw
with probabilities t_e that follow s, knows nothing of A; of T without A a random 2 m - 2 K are asked about besides::

    pi_e = a n / E  +  (1 - a) t_e,        t_e = min(1, lambda s_e),        sum of t_e = n

Which of T are taken depends on how many are in A, not on who: each that is drawn for T is asked about for it with the
same probability, which is (2 m - 2 K) / n since so many are.
"""

from __future__ import annotations

import math

import numpy as np

from rlaif_ray.config import FeedbackConfig
from rlaif_ray.types import Array, Candidates, Drawn

__all__ = ["choose", "inclusion_probabilities", "sizes", "strata", "systematic"]

# Belief is cut into so many equal parts: below, each has some episodes of its own for most of a run.
BELIEF_BINS = 4


def choose(
    rng: np.random.Generator, candidates: Candidates, expected: float, feedback: FeedbackConfig, of_each: int = 1
) -> Drawn:
    """Draw so many of the candidates as ``feedback.select`` says, without replacement; all where there are no more.

    ``expected`` is kept exactly where it is a whole number; else one draw settles the fractional part, so that a small
    share of a few episodes is neither always none nor always one. Where the mode needs a reward model and there is none
    yet, all have the same probability, and the audit its share of them. ``of_each``: episodes in a question; of 2 an
    even number is drawn and an even number of those is audit. Raises ValueError: ``expected`` is below 0.
    """
    E = len(candidates)
    if expected < 0.0:
        raise ValueError(f"expected: got {expected}, expected at least 0")
    expected = min(expected, float(E))
    if expected == 0.0:
        return Drawn.none()
    size = sizes(candidates, feedback.select)
    audit_share = 1.0 if feedback.select == "uniform" else feedback.audit_share
    if of_each == 2:
        stratum = strata(candidates) if feedback.select == "stratified" else None
        return _pairs(rng, np.ones(E) if size is None else size, expected, audit_share, stratum)
    if size is None:
        return _alike(rng, E, expected, audit_share)
    floor = feedback.audit_share * expected / E
    probability = inclusion_probabilities(size, expected, feedback.audit_share)
    order = rng.permutation(E)
    if feedback.select == "stratified":  # side by side: each stratum then gets its share to within one
        order = order[np.argsort(strata(candidates)[order], kind="stable")]
    chosen = rng.permutation(systematic(rng, probability, order))
    audit = rng.random(len(chosen)) * probability[chosen] < floor
    return Drawn(chosen, probability[chosen], audit)


def sizes(candidates: Candidates, select: str) -> Array | None:
    """(E,) >= 0: how much each is worth asking about, beside the others; None: all alike.

    ``newest``: halves with every E / 8 places that an episode ended before others; ``uncertain``: b (1 - b), the
    variance of a verdict that is good with probability b; ``disagreement``: the ensemble's standard deviation;
    ``stratified``: one over the number of episodes in its stratum.
    """
    if select == "newest":
        return np.exp2(-8.0 * _places(candidates) / len(candidates))
    if select == "uncertain" and candidates.belief is not None:
        belief = candidates.belief.astype(np.float64)
        return belief * (1.0 - belief)
    if select == "disagreement" and candidates.spread is not None:
        return candidates.spread.astype(np.float64)
    if select == "stratified" and candidates.belief is not None:
        _, which, count = np.unique(strata(candidates), return_inverse=True, return_counts=True)
        return 1.0 / count[which]
    return None


def strata(candidates: Candidates) -> Array:
    """(E,) number of each candidate's stratum: its bin of belief, and whether it ended by itself."""
    belief = np.zeros(len(candidates)) if candidates.belief is None else candidates.belief
    bins = np.minimum((BELIEF_BINS * belief).astype(np.int64), BELIEF_BINS - 1)
    return 2 * bins + candidates.terminated


def inclusion_probabilities(size: Array, expected: float, audit_share: float) -> Array:
    """(E,) probabilities that sum to ``expected``: a uniform part, and one in proportion to ``size`` up to 1 in all.

    What is left once all that have a size are certain goes to the others alike.
    """
    E = len(size)
    floor = audit_share * expected / E
    most, left = 1.0 - floor, expected - E * floor
    size = size / size.max() if size.max() > 0.0 else np.ones(E)
    share, is_open = np.zeros(E), np.ones(E, bool)
    while left > 0.0 and is_open.any():
        weight = np.where(is_open, size, 0.0)
        weight = weight if weight.sum() > 0.0 else is_open.astype(np.float64)
        wanted = left * weight / weight.sum()
        certain = is_open & (wanted >= most)
        if not certain.any():
            share[is_open] = wanted[is_open]
            break
        share[certain] = most
        left -= most * int(certain.sum())
        is_open &= ~certain
    return np.minimum(floor + share, 1.0)


def systematic(rng: np.random.Generator, probability: Array, order: Array) -> Array:
    """Indices drawn with these probabilities: episodes are laid end to end in ``order``, each as long as its
    probability, and whole numbers from a random start are marked. So many as the probabilities sum to, rounded up or
    down at random, each once."""
    total = float(probability.sum())
    if abs(total - round(total)) < 1e-9 * max(1.0, total):
        total = round(total)  # rounding must neither lose the last one nor draw one more
    ends = np.minimum(np.cumsum(probability[order]), total)
    ends[-1] = total
    marks = np.floor(np.concatenate([[0.0], ends]) + rng.random())
    return np.asarray(order[np.flatnonzero(np.diff(marks))], np.int64)


def _alike(rng: np.random.Generator, E: int, expected: float, audit_share: float) -> Drawn:
    """Simple random sampling. All could be audit; where a mode waits for its reward model a random share of them is, as
    in the draws that follow: the audit then is one sample, in which no phase has more weight than another."""
    count = min(_rounded(rng, expected), E)
    chosen = rng.choice(E, size=count, replace=False).astype(np.int64)
    audit = np.ones(count, bool) if audit_share == 1.0 else rng.random(count) < audit_share
    return Drawn(chosen, np.full(count, expected / E), audit)


def _pairs(rng: np.random.Generator, size: Array, expected: float, audit_share: float, stratum: Array | None) -> Drawn:
    """Episodes for whole pairs, whose audit is whole pairs; ``stratum``: (E,) what lies side by side in the draw."""
    E = len(size)
    pairs = min(expected / 2, E // 2)
    most, probability = math.ceil(pairs), np.zeros(E)
    for count, chance in ((most, pairs - (most - 1)), (most - 1, most - pairs)):
        if count > 0:
            preferred = inclusion_probabilities(size, 2.0 * count, 0.0)
            probability += chance * (audit_share * 2 * count / E + (1.0 - audit_share) * preferred)
    count = _rounded(rng, pairs)
    if not count:
        return Drawn.none()
    alike = rng.permutation(E)[: 2 * _rounded(rng, audit_share * count)]
    order = rng.permutation(E)
    if stratum is not None:
        order = order[np.argsort(stratum[order], kind="stable")]
    preferred = rng.permutation(systematic(rng, inclusion_probabilities(size, 2.0 * count, 0.0), order))
    others = preferred[~np.isin(preferred, alike)][: 2 * count - len(alike)]
    both = np.concatenate([alike, others])
    place = rng.permutation(len(both))
    return Drawn(both[place], np.minimum(probability[both[place]], 1.0), place < len(alike))


def _rounded(rng: np.random.Generator, value: float) -> int:
    """Up or down, at random and right on average."""
    whole = int(value)
    return whole + int(rng.random() < value - whole)


def _places(candidates: Candidates) -> Array:
    """(E,) how many others are newer than each: acted by a newer policy, or of the same and ended later; those that
    share a place have its mean."""
    age = candidates.policy_version * (candidates.ended.max() + 1) + candidates.ended
    _, which, count = np.unique(age, return_inverse=True, return_counts=True)
    newer = count.sum() - np.cumsum(count)
    places: Array = (newer + (count - 1) / 2.0)[which]
    return places
