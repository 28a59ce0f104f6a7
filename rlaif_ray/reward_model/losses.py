"""What a reward model is fitted by and measured by: pure functions of arrays.

Targets are in [0, 1] (soft labels as such); where a class is needed, above 1/2 is *good*, below is *bad*, and exactly
1/2 counts as neither. ``belief_E`` is a probability, ``logit_E`` its log-odds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special
from torch import Tensor

from rlaif_ray.errors import ShapeError
from rlaif_ray.reward_model.noise import FlipRates
from rlaif_ray.types import Array, Scale

__all__ = [
    "Confusion",
    "agreement",
    "balanced_accuracy",
    "bin_of",
    "binary_cross_entropy",
    "bradley_terry",
    "brier",
    "calibration_gaps",
    "class_ratio",
    "class_weights",
    "clearly_worse",
    "cross_entropies",
    "expected_calibration_error",
    "fit_platt",
    "fit_temperature",
    "mean_belief",
    "scale_of",
    "spread_of_beliefs",
]

MOST_CLASS_WEIGHT = 5.0  # more would let a handful of (possibly wrong) labels of a rare class rule the fit
TEMPERATURE_NEEDS = 20  # fewer held-out labels can't tell a scale from luck
TEMPERATURE_RANGE = (0.1, 10.0)
MOST_OFFSET = 10.0  # odds of 20,000 to 1: as many labels would tell no more
LEAST_STD = 0.1  # of a belief where one label in a hundred is bad; less would make a reward of what hardly ever differs
SMALLEST_FLIP = 1e-6  # its logarithm must be finite
ANCHOR = 0.01  # a tenth of it lets logits drift, ten times as much pulls differences together


def binary_cross_entropy(
    logit_E: Tensor,
    target_E: Tensor,
    weight_E: Tensor,
    flips: FlipRates | None = None,
    certain_E: Tensor | None = None,
) -> Tensor:
    """Scalar: sum_e w_e c_e / sum_e w_e of the ``cross_entropies`` c_e. Raises ShapeError unless of one shape."""
    if not logit_E.shape == target_E.shape == weight_E.shape:
        raise ShapeError(
            f"cross entropy: got logits {tuple(logit_E.shape)}, targets {tuple(target_E.shape)}, "
            f"weights {tuple(weight_E.shape)}, expected one shape (E,)"
        )
    return (weight_E * cross_entropies(logit_E, target_E, flips, certain_E)).sum() / weight_E.sum()


def cross_entropies(
    logit_E: Tensor, target_E: Tensor, flips: FlipRates | None = None, certain_E: Tensor | None = None
) -> Tensor:
    """(E,) softplus(l_e) - y_e l_e, that is -y log p - (1-y) log(1-p), with p = sigmoid(l).

    With ``flips`` p stands for what is the case and y for what a judge says of it that calls a share a of the bad good
    and a share b of the good bad: the label is held against q = (1 - b) p + a (1 - p) instead. At its minimum p is then
    what it would be without the flips (forward correction: Patrini et al. 2017, arXiv:1609.03683, theorem 2).
    ``certain_E``: bool, which labels that is about, those that claim certainty; None: all.
    """
    plain_E = torch.nn.functional.softplus(logit_E) - target_E * logit_E
    if not flips:
        return plain_E
    log_p, log_not_p = torch.nn.functional.logsigmoid(logit_E), torch.nn.functional.logsigmoid(-logit_E)
    a, b = (max(rate, SMALLEST_FLIP) for rate in (flips.bad_as_good, flips.good_as_bad))
    log_q = torch.logaddexp(math.log1p(-b) + log_p, math.log(a) + log_not_p)
    log_not_q = torch.logaddexp(math.log(b) + log_p, math.log1p(-a) + log_not_p)
    corrected_E = -(target_E * log_q + (1 - target_E) * log_not_q)
    return corrected_E if certain_E is None else torch.where(certain_E, corrected_E, plain_E)


def bradley_terry(
    first_P: Tensor,
    second_P: Tensor,
    target_P: Tensor,
    weight_P: Tensor,
    flips: FlipRates | None = None,
    certain_P: Tensor | None = None,
) -> Tensor:
    """Scalar: cross entropy of P(first is preferred) = sigmoid(l_first - l_second), plus a hundredth of the mean of
    ((l_first + l_second) / 2)^2.

    Preferences tell differences only; the second term keeps logits around 0, so that a belief of 1/2 lies amidst what
    was seen. Bradley and Terry 1952; Christiano et al. 2017, arXiv:1706.03741, section 2.2.3.
    """
    around_P = (first_P + second_P) / 2
    judged = binary_cross_entropy(first_P - second_P, target_P, weight_P, flips, certain_P)
    return judged + ANCHOR * (around_P**2).mean()


def class_weights(target_E: Array, weight_E: Array) -> Array:
    """(E,) float32: ``weight_E`` scaled so that good and bad weigh the same in sum, by at most a factor of 5 between
    them, and 1 on average. A soft label's share of each class is its target."""
    balanced = weight_E * (target_E + (1 - target_E) * class_ratio(target_E, weight_E))
    scaled: Array = (balanced / max(balanced.mean(), 1e-12)).astype(np.float32)
    return scaled


def class_ratio(target_E: Array, weight_E: Array) -> float:
    """How much more a bad label is to weigh than a good one, from 1/5 to 5."""
    good, bad = float((weight_E * target_E).sum()), float((weight_E * (1 - target_E)).sum())
    return float(np.clip(good / bad if bad > 0 else np.inf, 1 / MOST_CLASS_WEIGHT, MOST_CLASS_WEIGHT))


def mean_belief(logit_KE: Array, temperature: float, offset: float = 0.0) -> Array:
    """(K, ...) logits of K members -> mean over members of sigmoid(logit / temperature + offset), float32."""
    belief: Array = _beliefs(logit_KE, temperature, offset).mean(axis=0)
    return belief.astype(np.float32, copy=False)


def spread_of_beliefs(logit_KE: Array, temperature: float, offset: float = 0.0) -> Array:
    """As ``mean_belief``, the standard deviation over members."""
    spread: Array = _beliefs(logit_KE, temperature, offset).std(axis=0)
    return spread.astype(np.float32, copy=False)


def _beliefs(logit_KE: Array, temperature: float, offset: float) -> Array:
    scaled = np.asarray(logit_KE, np.float32) / np.float32(temperature)
    beliefs: Array = special.expit(scaled + np.float32(offset) if offset else scaled)
    return beliefs


def fit_temperature(logit_KE: Array, target_E: Array) -> float:
    """The scalar T that minimises the summed cross entropy of ``mean_belief(logit_KE, T)`` plus (ln T)^2 / 2.

    The second term (a log-normal prior around 1) keeps T finite where the labels are separated perfectly. 1.0 for
    fewer than 20 labels or a single class. Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2.
    """
    if not _tells_a_scale(target_E):
        return 1.0
    from scipy import optimize  # a quarter of a second of each process that begins, and only those that fit come here

    def cost(log_T: float) -> float:
        return _nll(mean_belief(logit_KE, math.exp(log_T)), target_E) + 0.5 * log_T**2

    low, high = (math.log(T) for T in TEMPERATURE_RANGE)
    return math.exp(float(optimize.minimize_scalar(cost, bounds=(low, high), method="bounded").x))


def fit_platt(logit_KE: Array, target_E: Array) -> tuple[float, float]:
    """(T, b) that minimise the summed cross entropy of ``mean_belief(logit_KE, T, b)``: slope 1/T, above 0, and offset.

    Targets are drawn in from 0 and 1 to 1 / (n_bad + 2) and (n_good + 1) / (n_good + 2), which keeps both finite where
    the labels are separated perfectly; a soft one lies between in proportion. (1, 0) for fewer than 20 labels or a
    single class. Platt 1999, "Probabilistic outputs for support vector machines".
    """
    if not _tells_a_scale(target_E):
        return 1.0, 0.0
    from scipy import optimize

    good = float(target_E.sum())
    bad = len(target_E) - good
    drawn_in_E = 1 / (bad + 2) + target_E * ((good + 1) / (good + 2) - 1 / (bad + 2))
    low, high = (math.log(T) for T in TEMPERATURE_RANGE)
    start = math.log(fit_temperature(logit_KE, target_E))
    found = optimize.minimize(
        lambda at: _nll(mean_belief(logit_KE, math.exp(at[0]), at[1]), drawn_in_E),
        (start, 0.0),
        method="Nelder-Mead",  # beliefs are float32: differences of neighbours would be mostly rounding
        bounds=((low, high), (-MOST_OFFSET, MOST_OFFSET)),
        options={"initial_simplex": [(start, 0.0), (start - math.copysign(0.5, start), 0.0), (start, 1.0)]},
    )
    return math.exp(float(found.x[0])), float(found.x[1])


def _tells_a_scale(target_E: Array) -> bool:
    return len(target_E) >= TEMPERATURE_NEEDS and 0 < int((target_E > 0.5).sum()) < len(target_E)


def _nll(belief_E: Array, target_E: Array) -> float:
    p_E = np.clip(belief_E.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-(target_E * np.log(p_E) + (1 - target_E) * np.log1p(-p_E)).sum())


@dataclass(frozen=True)
class Confusion:
    """Counts of belief (above 1/2: good) against targets; targets of exactly 1/2 are left out."""

    good_as_good: int
    good_as_bad: int
    bad_as_good: int
    bad_as_bad: int

    @staticmethod
    def of(belief_E: Array, target_E: Array) -> Confusion:
        if belief_E.shape != target_E.shape:
            raise ShapeError(f"confusion: got beliefs {belief_E.shape}, targets {target_E.shape}, expected one shape")
        says, is_good, is_bad = belief_E > 0.5, target_E > 0.5, target_E < 0.5
        pairs = ((says, is_good), (~says, is_good), (says, is_bad), (~says, is_bad))
        return Confusion(*(int((a & b).sum()) for a, b in pairs))

    @property
    def good(self) -> int:
        return self.good_as_good + self.good_as_bad

    @property
    def bad(self) -> int:
        return self.bad_as_good + self.bad_as_bad

    @property
    def right(self) -> int:
        return self.good_as_good + self.bad_as_bad

    def shares(self) -> dict[str, tuple[int, int]]:
        """By name, each cell and how many labels of its class there are; of ``good_as_good`` and ``bad_as_bad`` that is
        the class's recall."""
        return {
            "good_as_good": (self.good_as_good, self.good),
            "good_as_bad": (self.good_as_bad, self.good),
            "bad_as_good": (self.bad_as_good, self.bad),
            "bad_as_bad": (self.bad_as_bad, self.bad),
        }

    def __len__(self) -> int:
        return self.good + self.bad


def agreement(belief_E: Array, target_E: Array) -> float:
    """Share of episodes where belief and target fall on the same side of 1/2; nan for none."""
    table = Confusion.of(belief_E, target_E)
    return table.right / len(table) if len(table) else math.nan


def balanced_accuracy(belief_E: Array, target_E: Array) -> float:
    """Mean of the two classes' recalls; nan where a class is missing."""
    table = Confusion.of(belief_E, target_E)
    if not table.good or not table.bad:
        return math.nan
    return (table.good_as_good / table.good + table.bad_as_bad / table.bad) / 2


def brier(belief_E: Array, target_E: Array) -> float:
    """Mean of (p - y)^2; 0 is perfect, 1/4 is what "don't know" gets; nan for none."""
    if not len(belief_E):
        return math.nan
    return float(np.mean((np.asarray(belief_E, np.float64) - target_E) ** 2))


def bin_of(belief_E: Array, bins: int) -> Array:
    """(E,) int64: which of so many equal bins of [0, 1] a belief lies in."""
    found: Array = np.minimum((np.asarray(belief_E, np.float64) * bins).astype(np.int64), bins - 1)
    return found


def expected_calibration_error(belief_E: Array, target_E: Array, bins: int = 10) -> float:
    """sum_b (n_b / n) |mean belief in b - mean target in b| over equal bins of [0, 1]; nan for none."""
    n = len(belief_E)
    return float(np.abs(_gaps(belief_E, target_E, bins)).sum() / n) if n else math.nan


def calibration_gaps(belief_E: Array, target_E: Array, bins: int = 10) -> Array:
    """(bins,) (n_b / n) (mean belief in b - mean target in b), whose absolute values add up to the expected calibration
    error."""
    return _gaps(belief_E, target_E, bins) / len(belief_E)


def _gaps(belief_E: Array, target_E: Array, bins: int) -> Array:
    gap_b: Array = np.bincount(
        bin_of(belief_E, bins), weights=np.asarray(belief_E, np.float64) - target_E, minlength=bins
    )
    return gap_b


def clearly_worse(new_belief_E: Array, old_belief_E: Array, target_E: Array) -> bool:
    """Paired: the new one lost more episodes than it won, by more than the standard error of that difference.

    McNemar's statistic (lost - won) / sqrt(lost + won) > 1: one episode of difference is luck, two without a win not.
    A one-sided test at a level of about 16 %, on purpose a mild one: who refuses an equally good fit goes on with the
    version that it has, who takes a worse one pays by it.
    """
    judged = target_E != 0.5
    new_right, old_right = ((b > 0.5) == (target_E > 0.5) for b in (new_belief_E, old_belief_E))
    lost, won = (int((a & ~b & judged).sum()) for a, b in ((old_right, new_right), (new_right, old_right)))
    return lost - won > math.sqrt(lost + won)


def scale_of(belief_S: Array, end_E: Array) -> Scale:
    """Mean and standard deviation of (S,) beliefs at every observation and (E,) at the episodes' ends."""
    (step_mean, step_std), (end_mean, end_std) = (
        (float(np.mean(belief, dtype=np.float64)), max(LEAST_STD, float(np.std(belief, dtype=np.float64))))
        for belief in (belief_S, end_E)
    )
    return Scale(end_mean, end_std, step_mean, step_std)
