"""The learner does what RLlib's does: the same rows in the same minibatches, the same clipping."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.minibatch_utils import MiniBatchCyclicIterator
from ray.rllib.utils.torch_utils import clip_gradients

from rlaif_ray.learner import FeedbackPPOLearner, clip_together, minibatch_rows


@pytest.mark.parametrize(
    ("total", "size", "epochs", "count"), [(64, 16, 3, 0), (50, 16, 3, 0), (10, 16, 2, 0), (50, 16, 4, 7)]
)
def test_minibatches_are_cut_as_rllib_cuts_them(total, size, epochs, count):
    batch = MultiAgentBatch({"one": SampleBatch({"x": np.arange(total)})}, total)
    theirs = MiniBatchCyclicIterator(
        batch, num_epochs=epochs, minibatch_size=size, shuffle_batch_per_epoch=False, num_total_minibatches=count
    )
    ours = minibatch_rows(total, size, epochs=epochs, shuffle=False, count=count)
    for of, rows in zip(theirs, ours, strict=True):
        assert of["one"]["x"].tolist() == rows.tolist()


def test_every_row_comes_once_an_epoch_in_another_order():
    rows = torch.cat(list(minibatch_rows(64, 16, epochs=3, shuffle=True))).view(3, 64)
    assert rows[0].tolist() == list(range(64))
    for epoch in rows:
        assert sorted(epoch.tolist()) == list(range(64))
    assert rows[1].tolist() != rows[2].tolist()


@pytest.mark.parametrize("by", ["global_norm", "norm", "value"])
@pytest.mark.parametrize("limit", [0.5, 1e3])
@pytest.mark.parametrize("spoilt", [False, True])
def test_gradients_are_clipped_as_rllib_clips_them(by, limit, spoilt):
    made = {name: torch.randn(4, 3, generator=torch.Generator().manual_seed(i)) for i, name in enumerate("ab")}
    if spoilt:
        made["a"][0, 0] = float("inf")
    ours, theirs = ({name: grad.clone() for name, grad in made.items()} | {"none": None} for _ in range(2))
    if by == "norm":  # RLlib's own has no place for None there
        del ours["none"], theirs["none"]
    found = clip_together(ours, grad_clip=limit, grad_clip_by=by)
    expected = clip_gradients(theirs, grad_clip=limit, grad_clip_by=by)
    assert (found is None) == (expected is None)
    if found is not None:
        assert torch.allclose(found, expected)
    for name, grad in theirs.items():
        assert grad is None or torch.allclose(ours[name], grad, equal_nan=True)


class Module:
    """Digests observations to their negatives."""

    def unwrapped(self):
        return self

    def digest(self, obs):
        return {"digest": -obs}


def minibatches_of(learner, columns, **options):
    given = TrainingData(batch=MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(columns)}, env_steps=6))
    parts = FeedbackPPOLearner._create_iterator_if_necessary(learner, training_data=given, **options)
    return [part[DEFAULT_MODULE_ID] for part in parts]


def test_a_digest_takes_the_place_of_the_observations():
    learner = SimpleNamespace(_device=torch.device("cpu"), module={DEFAULT_MODULE_ID: Module()})
    learner._minibatches = lambda *args: FeedbackPPOLearner._minibatches(learner, *args)
    learner._there = lambda column: FeedbackPPOLearner._there(learner, column)
    columns = {Columns.OBS: np.arange(6), Columns.ACTIONS: np.arange(6) * 10}
    parts = minibatches_of(learner, columns, minibatch_size=3, num_epochs=2, shuffle_batch_per_epoch=True)
    assert len(parts) == 4
    assert all(set(part) == {"digest", Columns.ACTIONS} for part in parts)
    assert all((part["digest"] * -10 == part[Columns.ACTIONS]).all() for part in parts)
    assert parts[0][Columns.ACTIONS].tolist() == [0, 10, 20]
