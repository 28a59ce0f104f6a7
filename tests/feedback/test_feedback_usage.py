"""A run as if it stood alone: what it took from a shared store counts, once, and no more than its own caps allow."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import ray
from feedback_fakes import asked_about, tiny_config
from test_feedback_exchange import preference
from test_feedback_store import ME, USED, VERDICT, WORST, answered, record

from rlaif_ray.feedback.actors import StoreHandle
from rlaif_ray.feedback.budget import Amount, Caps
from rlaif_ray.feedback.judge import identity_of
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.sweep.labels import TrialLabels
from rlaif_ray.types import Abstention, Label, episodes_of

ONE = Amount(VERDICT.usage.cost_usd, 1, VERDICT.usage.input_tokens + VERDICT.usage.output_tokens)


def test_what_others_paid_for_counts_once_and_is_no_cash(store: LabelStore) -> None:
    for number in range(3):
        answered(store, number, run="first")
    for number in (0, 1, 1):  # the second look at 1 is what a resumed run does
        assert isinstance(store.claim(record(number, "second"), ME), Label)
    answered(store, 9, run="second")
    used = store.stand_alone("second")
    assert used.labels == 3
    assert used.usd == pytest.approx(2 * ONE.usd + USED.usd)
    assert used.tokens == 2 * ONE.tokens + USED.tokens
    assert store.stats("second").labels == 1  # cash
    assert store.stand_alone("first").labels == 3
    assert store.account(Caps()).spent.labels == 4


def test_a_run_cloned_from_another_is_charged_for_its_labels_until_then(store: LabelStore) -> None:
    labels = [answered(store, number, run="donor") for number in range(4)]
    store.claim(record(0, "clone"), ME)
    answered(store, 9, run="clone")
    used = store.stand_alone("clone", {"donor": labels[2].label_id, "clone": 10**6})
    assert used.labels == 4  # 9, and 0, 1, 2 of the donor's: 0 was taken already, 3 came later
    assert used.usd == pytest.approx(USED.usd + 3 * ONE.usd)


def test_a_run_takes_from_the_store_no_more_than_it_might_have_bought(store: LabelStore) -> None:
    for number in range(4):
        answered(store, number, run="first")
    caps = Caps(run=Caps(labels=2))
    store.open_run("second", caps)
    assert isinstance(store.claim(record(0, "second"), ME), Label)
    store.settle(store.reserve(record(8, "second"), WORST, caps, ME), USED)
    assert store.claim(record(1, "second"), ME) == "unanswered"
    assert isinstance(store.claim(record(0, "second"), ME), Label)  # that one it has used already
    store.open_run("third", Caps(labels=2, run=Caps(usd=2.5 * ONE.usd)))  # the store's own cap is of cash
    taken = [store.claim(record(number, "third"), ME) for number in range(4)]
    assert [isinstance(one, Label) for one in taken] == [True, True, False, False]


def test_an_answer_put_together_of_several_counts_for_as_many(store: LabelStore) -> None:
    """A panel's answer, taken whole: its three members were asked."""
    parts = [answered(store, number, run="first").label_id for number in (1, 2, 3)]
    whole = replace(record(7, "first"), whole=True, made_of=json.dumps(parts))
    assert store.claim(whole, ME) == "claimed"
    store.answer(whole, VERDICT, None, Amount())
    last = store.labels()[-1].label_id
    assert store.stand_alone("first").labels == 3
    assert store.stand_alone("clone", {"first": last}).labels == 3  # its parts, not the whole beside them
    store.open_run("second", Caps(run=Caps(labels=2)))
    assert store.claim(record(7, "second"), ME) == "unanswered"
    store.open_run("third", Caps(run=Caps(labels=3)))
    assert isinstance(store.claim(record(7, "third"), ME), Label)
    assert store.stand_alone("third").labels == 3
    assert store.stand_alone("clone", {"third": store.labels()[-1].label_id}).labels == 3


def test_the_noise_of_each_seed_is_its_own() -> None:
    """Trials of one seed share answers; those of another ask anew, since the seed is part of the question."""
    keys = {
        asked_about(1, identity_of(tiny_config("http://127.0.0.1:1/v1", judge__seed=seed).judge)).key
        for seed in (0, 1, 1)
    }
    assert len(keys) == 2


@pytest.mark.ray
def test_a_clone_takes_over_verdicts_with_all_that_they_are_about(store: LabelStore, ray_session: None) -> None:
    """Asked of the store's actor, as a trial does that may be on another node than the file."""
    refused = Abstention("refusal", "no", VERDICT.usage)
    first, none = answered(store, 1, run="run"), answered(store, 2, refused, run="run")
    pair = preference(store, 20)
    answered(store, 3, run="run")  # came after the clone was made
    handle = StoreHandle(store.path)
    labels = TrialLabels(handle, "clone")
    found = labels.of_others({"run": pair.label_id})
    assert none.value is None
    assert [one.value for one in found] == [first.value, pair.value]
    assert [[one.episode_id for one in episodes_of(judged.units)] for judged in found] == [
        [1], [pair.episode_id, pair.second_episode_id],
    ]  # fmt: skip
    assert labels.last() == 0
    newest = answered(store, 4, run="clone").label_id
    assert labels.last() == labels.last() == newest
    assert labels.stand_alone({}).labels == 1
    ray.kill(handle.actor)
