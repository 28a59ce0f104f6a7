"""Scores of judged episodes: kept with the version they are of, paired with the verdicts."""

from __future__ import annotations

import numpy as np
import pytest
from test_feedback_loop import Pool, Trainer, abstention, loop_of, published, runner, turn, verdict

from rlaif_ray.scorebook import FILE, Score, append_scores, read_scores
from rlaif_ray.scoring import Remembering, beliefs_of


def _scored(loop):
    return {one.episode_id: one for one in loop.take_scores()}


def test_an_episode_s_score_is_of_the_version_it_began_under():
    """Version 2 comes out while an episode runs: its score stays version 1's, the next episode's is version 2's."""
    trainer = Trainer([published(1)])
    loop = loop_of(Pool(), trainer)
    loop.learn_to_judge()
    sample = runner((6,))
    turn(loop, [sample(3)], 100)
    trainer.publish = [published(2)]
    loop.learn_to_judge()
    ended = sample(3)
    (episode,) = ended.episodes.episode_id.tolist()
    turn(loop, [ended], 200)
    score = _scored(loop)[episode]
    assert (score.reward_model_version, score.steps) == (1, 200)
    assert score.belief == pytest.approx(6 * 0.05)
    after = sample(6)
    (following,) = after.episodes.episode_id.tolist()
    turn(loop, [after], 300)
    score = _scored(loop)[following]
    assert score.reward_model_version == 2
    assert score.belief == pytest.approx(0.5 + 6 * 0.05)
    assert loop.take_scores() == []


@pytest.mark.parametrize(
    ("answer", "kept"), [(lambda e: verdict(e.episode_id, 1.0), True), (lambda e: abstention(e.episode_id), True),
                         (lambda e: None, False)]
)  # fmt: skip
def test_scores_are_kept_of_those_asked_about_and_of_them_alone(answer, kept):
    loop = loop_of(Pool(answer, delay=0), Trainer([published(1)]))
    loop.learn_to_judge()
    rollout = runner((5,))(5)
    turn(loop, [rollout], 100)
    assert (set(_scored(loop)) == set(rollout.episodes.episode_id.tolist())) is kept
    unasked = loop_of(Pool(room=0), Trainer([published(1)]))
    unasked.learn_to_judge()
    turn(unasked, [runner((5,))(5)], 100)
    assert unasked.take_scores() == []


def test_one_whose_answer_is_still_out_is_kept_too_and_none_without_a_version():
    loop = loop_of(Pool(delay=3), Trainer([published(1)]))
    loop.learn_to_judge()
    turn(loop, [runner((5,))(5)], 100)
    assert len(loop.take_scores()) == 1
    before_the_gate = loop_of(Pool(), Trainer())
    turn(before_the_gate, [runner((5,))(5)], 100)
    assert before_the_gate.take_scores() == []


def test_every_score_names_its_version():
    class Versioned:
        def __init__(self, version):
            self.version = version

        def score(self, batch):
            from rlaif_ray.types import Scores

            return Scores(
                np.full(len(batch.obs), self.version / 10, np.float32), batch.obs_offsets,
                np.full(len(batch), self.version),
            )  # fmt: skip

    episodes = runner((2, 3, 2))(12).episodes
    version = np.arange(len(episodes)) % 3
    belief = beliefs_of(episodes, version, {v: Remembering(Versioned(v)) for v in (1, 2)})
    assert belief[episodes.obs_offsets[1:] - 1] == pytest.approx(version / 10)


def test_what_is_written_is_read_back_and_later_lines_stand(tmp_path):
    first = [Score(100, 1, 0, 1, 0.25), Score(100, 2, 0, 1, 0.75)]
    append_scores(tmp_path, first)
    append_scores(tmp_path, [])
    assert list(read_scores(tmp_path)) == first
    other = Score(95, 1, 3, 1, 0.5)  # after a kill the next life's episodes may have ids that were given before
    append_scores(tmp_path, [Score(90, 2, 0, 1, 0.5), other])
    with open(tmp_path / FILE, "a") as file:
        file.write("110,3,0,")  # a line torn by a kill
    assert list(read_scores(tmp_path)) == [first[0], Score(90, 2, 0, 1, 0.5), other]
    assert (tmp_path / FILE).read_text().splitlines()[
        0
    ] == "steps,episode_id,policy_version,reward_model_version,belief"
    assert list(read_scores(tmp_path / "elsewhere")) == []
