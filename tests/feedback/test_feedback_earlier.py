"""Labels bought before: what they are about must fit what the run's judge is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from feedback_fakes import TinyRenderer, tiny_config, tiny_episode

from rlaif_ray.config import load_config
from rlaif_ray.errors import ConfigError
from rlaif_ray.feedback.budget import Amount, Caps
from rlaif_ray.feedback.database import owner_id
from rlaif_ray.feedback.earlier import kinds_in
from rlaif_ray.feedback.judge import identity_of
from rlaif_ray.feedback.question import Asked, Questionnaire
from rlaif_ray.feedback.records import record_of
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import Usage, Verdict
from rlaif_ray.warm_start import check_earlier

ME = owner_id()
SAID = {
    "homegrid-align": Verdict("approval", 1.0, "yes", Usage(), approved=True),
    "homegrid-rating": Verdict("rating", 0.5, "fair", Usage(), rating=2),
    "homegrid-preference": Verdict("preference", 1.0, "first", Usage(), preference="first"),
}


def bought(path: Path, *prompts: str) -> str:
    """A store with one verdict for each of these prompts."""
    with LabelStore(path) as store:
        for number, prompt in enumerate(prompts):
            config = tiny_config("http://127.0.0.1:1/v1", judge__prompt=prompt).judge
            questions = Questionnaire.of(config, TinyRenderer(), identity_of(config))
            first, second = tiny_episode(10 * number), tiny_episode(10 * number + 1)
            asked = Asked(questions.about(first), first, "run") if "preference" not in prompt else Asked(
                questions.between(first, second), first, "run", second=second
            )  # fmt: skip
            row = replace(record_of(asked), part=False)
            store.claim(row, ME)
            store.answer(row, SAID[prompt], store.reserve(row, Amount(), Caps(), ME), Amount())
    return str(path)


@pytest.mark.parametrize(
    ("stored", "prompt", "told"),
    [
        (["homegrid-preference"] * 2, "homegrid-align",
         r"which holds 2 preferences; allowed with judge\.prompt 'homegrid-align' of kind 'approval' are approvals and "
         "ratings"),
        (["homegrid-align"], "homegrid-preference",
         r"which holds 1 approval; allowed with judge\.prompt 'homegrid-preference' of kind 'preference' are preferen"),
        (["homegrid-align", "homegrid-preference"], "homegrid-rating", "which holds 1 approval, 1 preference; allowed"),
    ],
)  # fmt: skip
def test_labels_on_another_number_of_episodes_are_refused(
    stored: list[str], prompt: str, told: str, tmp_path: Path
) -> None:
    where = bought(tmp_path / "labels.sqlite", *stored)
    config = load_config({}, {"mix.source": "distilled", "reward_model.labels": where, "judge.prompt": prompt})
    with pytest.raises(ConfigError, match=told):
        check_earlier(config, (1, 3))


@pytest.mark.parametrize(
    ("stored", "prompt"),
    [("homegrid-preference", "homegrid-preference"), ("homegrid-rating", "homegrid-align"),
     ("homegrid-align", "homegrid-rating")],
)  # fmt: skip
def test_labels_on_as_many_episodes_are_taken(stored: str, prompt: str, tmp_path: Path) -> None:
    where = bought(tmp_path / "labels.sqlite", stored)
    assert list(kinds_in(Path(where))) == [SAID[stored].kind]
    config = load_config({}, {"mix.source": "distilled", "reward_model.labels": where, "judge.prompt": prompt})
    check_earlier(config, (1, 3))
