"""Drawing whom to ask about: what is preferred, and that the chances are what they are said to be."""

from __future__ import annotations

from itertools import pairwise, permutations
from types import SimpleNamespace

import numpy as np
import pytest

from rlaif_ray.config import FeedbackConfig, load_config
from rlaif_ray.errors import ConfigError, ShapeError
from rlaif_ray.feedback.estimate import estimated_mean, estimated_total
from rlaif_ray.feedback.select import choose, inclusion_probabilities, sizes, systematic
from rlaif_ray.types import Array, Candidates, Drawn

E = 40
MODES = ["uniform", "newest", "uncertain", "disagreement", "stratified"]


def feedback(select: str) -> FeedbackConfig:
    keys = {"feedback.select": select, "reward_model.ensemble": 2}
    return load_config({}, {"mix.source": "hybrid"} | keys).feedback


feedback_of = {select: feedback(select) for select in MODES}


def episodes(seed: int = 0) -> Candidates:
    """A policy late in training: nearly all is good and the model knows it; a few it is unsure of."""
    rng = np.random.default_rng(seed)
    belief = np.where(rng.random(E) < 0.8, rng.uniform(0.95, 1.0, E), rng.uniform(0.0, 0.9, E))
    return Candidates(
        rng.integers(3, 6, E), rng.integers(0, 16, E), rng.random(E) < 0.9, belief, 0.4 * belief * (1 - belief)
    )


def verdicts(found: Candidates) -> Array:
    """What the judge would say of all: mostly what the model believes."""
    assert found.belief is not None
    return (np.random.default_rng(1).random(len(found)) < found.belief).astype(float)


# --------------------------------------------------------------------------------- chances are what they are said to be


@pytest.mark.parametrize("expected", [4.0, 2.5, 30.0])
@pytest.mark.parametrize("select", MODES)
def test_episodes_are_drawn_with_the_probability_that_is_said(select: str, expected: float) -> None:
    rng, found, times = np.random.default_rng(0), episodes(), 4000
    hits, audits, said = np.zeros(E), np.zeros(E), np.full(E, np.nan)
    for _ in range(times):
        drawn = choose(rng, found, expected, feedback_of[select])
        assert np.floor(expected) <= len(drawn) <= np.ceil(expected)
        assert len(set(drawn.index.tolist())) == len(drawn)
        hits[drawn.index] += 1
        audits[drawn.index[drawn.audit]] += 1
        said[drawn.index] = drawn.probability
    assert not np.isnan(said).any()  # everybody's turn comes
    assert said.sum() == pytest.approx(expected)
    # Binomial: the standard deviation of a share is at most 0.008 here; five of them.
    np.testing.assert_allclose(hits / times, said, atol=0.04)
    share = 1.0 if select == "uniform" else 0.1
    np.testing.assert_allclose(audits / times, share * expected / E, atol=5 * (share * expected / E / times) ** 0.5)


@pytest.mark.parametrize("expected", [2.0, 5.0, 6.0, 20.0])
@pytest.mark.parametrize("select", MODES)
def test_pairs_are_drawn_with_the_probability_that_is_said(select: str, expected: float) -> None:
    """Of one pair, two or three, three, and ten of at most twenty."""
    rng, found, times = np.random.default_rng(0), episodes(), 4000
    hits, audits, said, share = np.zeros(E), np.zeros(E), np.full(E, np.nan), feedback_of[select].audit_share
    for _ in range(times):
        drawn = choose(rng, found, expected, feedback_of[select], 2)
        assert len(drawn) // 2 in (np.floor(expected / 2), np.ceil(expected / 2))
        assert len(drawn) % 2 == drawn.audit.sum() % 2 == 0
        assert len(set(drawn.index.tolist())) == len(drawn)
        hits[drawn.index] += 1
        audits[drawn.index[drawn.audit]] += 1
        said[drawn.index] = drawn.probability
    known = ~np.isnan(said)
    assert known.mean() > 0.95  # of one pair, who is not preferred is hardly ever in it
    share = 1.0 if select == "uniform" else share
    assert np.nansum(said) == pytest.approx(expected, abs=0.01 * expected)
    np.testing.assert_allclose((hits / times)[known], said[known], atol=0.04)
    assert audits.sum() / times == pytest.approx(share * expected, rel=0.2)
    np.testing.assert_allclose(audits / times, share * expected / E, atol=5 * (share * expected / E / times) ** 0.5)


def test_the_chances_of_pairs_by_hand() -> None:
    """One pair of three, half of the time any two: 1/3 for each. Else the two that are preferred."""
    found = Candidates(np.zeros(3, int), np.zeros(3, int), np.ones(3, bool), np.array([0.5, 0.5, 1.0]))
    half = feedback_of["uncertain"].model_copy(update={"audit_share": 0.5})
    rng, times, met, audit = np.random.default_rng(0), 6000, np.zeros(3), 0
    for _ in range(times):
        drawn = choose(rng, found, 2.0, half, 2)
        assert drawn.probability == pytest.approx(np.where(drawn.index == 2, 1 / 3, 5 / 6))
        met[3 - drawn.index.sum()] += 1  # by who is left over, 2 - 2, 1, 0 -> index of the pair
        audit += int(drawn.audit.all())
    assert audit / times == pytest.approx(0.5, abs=0.03)
    np.testing.assert_allclose(met / times, [1 / 6, 1 / 6, 2 / 3], atol=0.03)


@pytest.mark.parametrize("select", MODES)
def test_of_pairs_all_are_drawn_where_there_are_no_more(select: str) -> None:
    found = episodes()
    rng = np.random.default_rng(0)
    assert sorted(choose(rng, found, 99.0, feedback_of[select], 2).index.tolist()) == list(range(E))
    few = Candidates(*(column[:3] for column in (found.policy_version, found.ended, found.terminated)))
    assert len(choose(rng, few, 3.0, feedback_of[select], 2)) == 2
    alone = Candidates(*(column[:1] for column in (found.policy_version, found.ended, found.terminated)))
    assert len(choose(rng, alone, 1.0, feedback_of[select], 2)) == 0


def test_a_systematic_draw_has_its_probabilities_exactly() -> None:
    """All orders of four, and the start integrated piece by piece between the points where the outcome changes."""
    probability = np.array([0.9, 0.65, 0.3, 0.4])  # sum 2.25
    exact = np.zeros(4)
    for order in map(np.array, permutations(range(4))):
        cuts = np.sort(np.concatenate([[0.0, 1.0], 1.0 - np.cumsum(probability[order]) % 1.0]))
        for low, high in pairwise(cuts.tolist()):
            middle = SimpleNamespace(random=lambda at=(low + high) / 2: at)
            drawn = systematic(middle, probability, order)  # type: ignore[arg-type]
            assert len(drawn) in (2, 3)
            exact[drawn] += (high - low) / 24
    np.testing.assert_allclose(exact, probability, atol=1e-12)


def test_inclusion_probabilities_by_hand() -> None:
    """Two of four, a quarter of them audit: 1/8 for each. Sizes 3 and 1 share 1.5: the first would get 1.125 and is
    certain with 0.875, the second has the 0.625 that are left."""
    assert inclusion_probabilities(np.array([3.0, 1.0, 0.0, 0.0]), 2.0, 0.25) == pytest.approx([1, 0.75, 0.125, 0.125])
    assert inclusion_probabilities(np.zeros(4), 2.0, 0.25) == pytest.approx([0.5] * 4)
    assert inclusion_probabilities(np.array([5.0, 0.0, 0.0]), 2.0, 0.1) == pytest.approx([1, 0.5, 0.5])  # left over
    assert inclusion_probabilities(np.array([1e-300, 1.0]), 2.0, 0.1) == pytest.approx([1, 1])
    assert inclusion_probabilities(np.array([0.0, 1.0]), 1.0, 1.0) == pytest.approx([0.5, 0.5])  # all audit


@pytest.mark.parametrize("select", MODES)
def test_the_edges(select: str) -> None:
    rng, found = np.random.default_rng(0), episodes()
    everything = choose(rng, found, 99.0, feedback_of[select])
    assert sorted(everything.index.tolist()) == list(range(E))
    assert everything.index.tolist() != list(range(E))  # in random order
    assert everything.probability == pytest.approx(np.ones(E))
    none = Candidates(*(np.zeros(0, np.int64) for _ in range(3)))
    for nothing in (choose(rng, found, 0.0, feedback_of[select]), choose(rng, none, 0.0, feedback_of[select])):
        assert len(nothing) == 0
    with pytest.raises(ValueError, match=r"expected: got -1"):
        choose(rng, found, -1, feedback_of[select])


# --------------------------------------------------------------------------------------------- what is preferred


def test_whom_each_mode_prefers() -> None:
    found = Candidates(
        policy_version=np.array([3, 4, 4, 4]), ended=np.array([9, 1, 5, 5]),
        terminated=np.array([True, True, True, False]), belief=np.array([0.99, 0.5, 0.9, 0.95]),
        spread=np.array([0.0, 0.1, 0.3, 0.0]),
    )  # fmt: skip
    size = {select: sizes(found, select) for select in MODES}
    assert size["uniform"] is None
    assert size["newest"] == pytest.approx(np.exp2([-6.0, -4.0, -1.0, -1.0]))  # places 3, 2 and twice 0.5, of 4
    assert size["uncertain"] == pytest.approx([0.0099, 0.25, 0.09, 0.0475])
    assert size["disagreement"] == pytest.approx([0.0, 0.1, 0.3, 0.0])
    assert size["stratified"] == pytest.approx([0.5, 1.0, 0.5, 1.0])  # 0.99 and 0.9 share a bin; the last was cut short


def test_every_stratum_gets_its_share_each_time() -> None:
    belief = np.array([0.1] * 4 + [0.99] * 36)
    found = Candidates(np.zeros(40, int), np.zeros(40, int), np.ones(40, bool), belief)
    rng = np.random.default_rng(0)
    counts = [int((choose(rng, found, 4.0, feedback_of["stratified"]).index < 4).sum()) for _ in range(300)]
    assert set(counts) <= {1, 2}  # of the four a little less than two: 0.9 * 2 + 0.1 * 4 * 4 / 40
    assert np.mean(counts) == pytest.approx(1.84, abs=0.1)


@pytest.mark.parametrize("select", ["uncertain", "disagreement", "stratified"])
def test_without_a_reward_model_all_are_alike(select: str) -> None:
    found = episodes()
    blind = Candidates(found.policy_version, found.ended, found.terminated)
    rng, hits, audits = np.random.default_rng(0), np.zeros(E), 0
    for _ in range(1000):
        drawn = choose(rng, blind, 4.0, feedback_of[select])
        assert drawn.probability == pytest.approx([0.1] * 4)
        hits[drawn.index] += 1
        audits += int(drawn.audit.sum())
    np.testing.assert_allclose(hits / 1000, 0.1, atol=0.05)
    assert audits / 4000 == pytest.approx(0.1, abs=0.025)  # as in the draws that follow


# --------------------------------------------------------------------------------------------- what it says of all


@pytest.mark.parametrize("select", MODES)
def test_estimates_are_right_for_all_whoever_was_preferred(select: str) -> None:
    rng, found = np.random.default_rng(2), episodes()
    value, times = verdicts(found), 3000
    totals, naive = np.zeros(times), np.zeros(times)
    for i in range(times):
        drawn = choose(rng, found, 6.0, feedback_of[select])
        totals[i] = estimated_total(value[drawn.index], drawn.probability)
        naive[i] = value[drawn.index].mean()
    error = totals.std() / times**0.5
    assert abs(totals.mean() - value.sum()) < 4.5 * error
    assert error < 0.5
    if select in ("uncertain", "disagreement", "stratified"):  # who forgets the chances is far off
        assert naive.mean() < value.mean() - 0.03


@pytest.mark.parametrize("select", MODES)
def test_intervals_hold_the_truth_as_often_as_they_say(select: str) -> None:
    """Runs of forty iterations with three questions each."""
    rng, inside, times = np.random.default_rng(3), 0, 300
    groups = [episodes(seed) for seed in range(40)]
    said = [verdicts(found) for found in groups]
    truth = np.concatenate(said).mean()
    for _ in range(times):
        drawn = [choose(rng, found, 3.0, feedback_of[select]) for found in groups]
        value = np.concatenate([all_of[one.index] for all_of, one in zip(said, drawn, strict=True)])
        estimate = estimated_mean(value, np.concatenate([one.probability for one in drawn]))
        inside += estimate.low <= truth <= estimate.high
        assert estimate.answers == 120
    assert inside / times > 0.92


def test_a_mean_by_hand() -> None:
    """Answers that stand for 2 and 4: the mean is 2 / 6; V = (2 * 1 * (2/3)^2 + 4 * 3 * (1/3)^2) / 36 = 0.06173, and
    weights alone would give (2 + 12) / 36 times p (1 - p) = 0.0864, which is more: Wilson's with n = 36 / 14."""
    estimate = estimated_mean(np.array([1.0, 0.0]), np.array([0.5, 0.25]))
    assert (estimate.mean, estimate.answers, estimate.episodes) == (pytest.approx(1 / 3), 2, 6.0)
    n, z = 36 / 14, 1.959964
    half = z * (2 / 9 / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
    centre = (1 / 3 + z * z / (2 * n)) / (1 + z * z / n)
    assert (estimate.low, estimate.high) == (pytest.approx(centre - half), pytest.approx(centre + half))
    asked_all = estimated_mean(np.array([1.0, 0.0, 1.0]), np.ones(3))
    assert (asked_all.low, asked_all.high) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    agreed = estimated_mean(np.ones(5), np.full(5, 0.1))
    assert agreed.low < 0.6  # five that agree prove little
    assert np.isnan(estimated_mean(np.zeros(0), np.zeros(0)).mean)


# --------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"feedback.select": "oldest"}, r"feedback\.select: got 'oldest'.*'uniform', 'newest'"),
        ({"feedback.select": "disagreement"}, r"reward_model\.ensemble of 1, allowed with one of 2"),
        ({"feedback.select": "uncertain", "mix.source": "direct"}, r"'direct' are 'uniform', 'newest'"),
        ({"feedback.audit_share": 0.0}, r"feedback\.audit_share: got 0"),
        ({"feedback.fraction_final": 1.5}, r"feedback\.fraction_final: got 1\.5"),
        ({"mix.unjudged": "reweight"}, r"'reweight' with feedback\.late 'rm', allowed with 'defer' and 'wait'"),
        ({"mix.reweight_clip": 0.5}, r"mix\.reweight_clip: got 0\.5"),
    ],
)
def test_what_can_not_be_is_said_at_once(keys: dict[str, object], says: str) -> None:
    terminal = {"mix.source": "hybrid", "mix.credit": "terminal"}
    if keys.get("mix.source") == "direct":
        terminal["mix.unjudged"] = "task"
    with pytest.raises(ConfigError, match=says):
        load_config({}, terminal | keys)


def test_a_probability_that_is_none_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"inclusion probabilities: got \[0\.  0\.5\]"):
        Drawn(np.array([0, 1]), np.array([0.5, 0.0]), np.ones(2, bool))
