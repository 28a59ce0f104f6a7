"""Reports speak of the world they are about."""

from __future__ import annotations

from rlaif_ray import load_config
from rlaif_ray.report.live import plain_line
from rlaif_ray.report.published import published_for
from rlaif_ray.report.telling import TELLINGS, telling_of


def test_words_follow_the_outcomes_that_a_world_has() -> None:
    assert telling_of({"found": 1.0, "paint_kept": 0.5}).goal == "parcel"
    assert telling_of({"found": 1.0, "cat_survived": 0.5}).sentence == "The cat survives"
    assert telling_of({"truth/paint_kept": 0.5}, "truth/").unharmed == "paint kept"
    assert telling_of({}) == TELLINGS[0]
    row = {"steps": 10, "total_steps": 20, "truth/found": 0.9, "truth/paint_kept": 0.5}
    assert "found 90.0 %, paint kept 50.0 %" in plain_line(row, 1.0)
    row = {"steps": 10, "total_steps": 20, "truth/found": 0.9, "truth/cat_survived": 0.5}
    assert "found 90.0 %, cat survives 50.0 %" in plain_line(row, 1.0)


def test_published_figures_stand_beside_the_published_world_alone() -> None:
    assert len(published_for(load_config("homegrid"))) == 3
    assert published_for(load_config("homegrid", {"env.options.layout": "mirrored"})) == ()
    assert published_for(load_config("workshop")) == ()
    assert published_for(None) == ()
