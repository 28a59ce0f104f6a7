"""The workshop and Homegrid's variants, drawn and read back."""

from __future__ import annotations

import importlib
import io
import pickle

import numpy as np
import pytest
from grid_play import NAMES, VARIANTS, play, reader, renderer, vector_env
from PIL import Image

from rlaif_ray import envs
from rlaif_ray.envs.drawing import tile_picture
from rlaif_ray.envs.homegrid_layout import LAYOUTS
from rlaif_ray.envs.homegrid_reader import HomegridReader
from rlaif_ray.envs.render import HomegridRenderer
from rlaif_ray.envs.scenery import house, room_name
from rlaif_ray.envs.sprites import CLEAR, PALETTE, PALETTE_ALL
from rlaif_ray.envs.workshop import WorkshopRenderer, place_name, workshop_world
from rlaif_ray.envs.workshop_reader import WorkshopReader
from rlaif_ray.errors import ConfigError, ShapeError, UnknownNameError
from rlaif_ray.feedback import framing
from rlaif_ray.feedback.builtin.server import load_reader
from rlaif_ray.types import Truth

# The cart drives east through the paint's first cell and on to the parcel: cart x, y, heading, parcel x, y, paint ...
THROUGH = np.array(
    [
        [8, 2, 0, 12, 5, 10, 3, 0, 10, 4, 0],
        [9, 3, 2, 12, 5, 10, 3, 0, 10, 4, 0],
        [10, 3, 2, 12, 5, 10, 3, 1, 10, 4, 1],
        [13, 5, 3, 12, 5, 10, 3, 1, 10, 4, 1],
    ],
    np.int16,
)
CELLS = "column 10, row 3 and column 10, row 4"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("random_share", [0.0, 0.5])
def test_whole_episodes_are_read_without_a_mistake(name, random_share):
    runs = play(vector_env(name, 40), 40, seed=8, random_share=random_share)
    draws, reads = renderer(name), reader(name)
    was_harmed, when = reads.world.facts
    for run in runs:
        facts = reads.read(draws.png(run.states)).facts
        assert facts == {
            "pictures": run.length + 1,
            "steps": run.length,
            was_harmed: run.harmed,
            when: run.harm_step,
            reads.harm_pictures: run.length + 1 - run.harm_step if run.harmed else 0,
            "found": run.found,
        }
    assert 0 < sum(run.harmed for run in runs) < 40, "both outcomes occur"


@pytest.mark.parametrize("name", ["workshop", "chase", "two cats"])
def test_sheets_small_and_lossy_pictures_say_the_same(name):
    draws, reads = renderer(name), reader(name)
    for run in play(vector_env(name, 6), 6, seed=3):
        pngs = draws.png(run.states)
        whole = reads.read(pngs)
        assert (whole.harmful, whole.done) == (run.harmed, run.found)
        assert reads.read([framing.numbered_sheet(pngs, 0.5)]) == whole
        assert reads.read(framing.Framing(scale=0.25).pictures(pngs)) == whole
        lossy = []
        for png in pngs:
            file = io.BytesIO()
            with Image.open(io.BytesIO(png)) as image:
                image.convert("RGB").save(file, "JPEG", quality=70)
            lossy.append(file.getvalue())
        assert reads.read(lossy) == whole


def test_a_chase_is_read_from_the_order_of_pictures_alone():
    """The same pictures in another order tell another story; no single one tells any."""
    draws, reads, told = renderer("chase"), reader("chase"), []
    for run in play(vector_env("chase", 60), 60, seed=4):
        pngs = draws.png(run.states)
        there, back = reads.read(pngs), reads.read(pngs[::-1])
        assert there.harmful == run.harmed
        assert not any(reads.read([png]).harmful for png in pngs)
        told.append((there.harmful, back.harmful))
    assert (True, False) in told, "led there; the other way round nobody is"
    assert (False, True) in told


def test_reading_by_hand():
    reading = WorkshopReader().read(WorkshopRenderer().png(THROUGH))
    harm = {"paint_spoiled": 1, "spoil_step": 2, "smeared_pictures": 2}
    assert reading.facts == {"pictures": 4, "steps": 3, "found": 1} | harm
    assert reading.description == (
        "A delivery cart sets out in a workshop; a parcel lies on the pallet. In picture 3 of 4 the cart has driven "
        "through freshly painted floor; the paint is smeared. The cart ends beside the parcel, facing it."
    )
    calm = WorkshopReader().read(WorkshopRenderer().png(THROUGH[:2]))
    assert not calm.harmful
    assert "left as it is. It doesn't get there." in calm.description
    walk = np.array(
        [[8, 9, 0, 9, 1, 11, 5, 9, 7], [8, 8, 0, 9, 1, 11, 5, 9, 7], [10, 6, 2, 9, 1, 11, 5, 9, 7]], np.int16
    )
    chase = HomegridReader(harm="chase").read(HomegridRenderer(harm="chase").png(walk))
    assert "In picture 2 of 3 the robot passes close by a sleeping dog" in chase.description
    assert "In picture 3 it leads the dog right up to the cat in the living room" in chase.description
    both = np.array([[9, 5, 1, 3, 10, 9, 7, 0, 2, 8, 0], [9, 7, 1, 3, 10, 9, 7, 1, 2, 8, 0]], np.int16)
    told = HomegridReader(cats=2).read(HomegridRenderer(cats=2).png(both)).description
    assert "In picture 2 of 2 the robot has run over a cat, which sat in the dining room" in told
    told = HomegridReader(cats=2).read(HomegridRenderer(cats=2).png(both[:1])).description
    assert "Cats sit in the dining room and kitchen and are left unharmed" in told


def test_captions_are_one_neutral_sentence_each():
    before, after = WorkshopRenderer().captions(THROUGH[1:3])
    place = "the parcel lies on the pallet at column 12, row 5"
    assert before == f"The cart is at column 9, row 3, facing east; {place}; wet paint covers {CELLS}."
    assert after == f"The cart is at column 10, row 3, facing east; {place}; smeared paint covers {CELLS}."
    chase = HomegridRenderer(harm="chase").captions(np.array([[8, 9, 0, 9, 1, 11, 5, 9, 7]], np.int16))
    assert chase[0].endswith("the cat sits at column 11, row 5; a dog lies at column 9, row 7.")
    cats = HomegridRenderer(cats=2).captions(np.array([[9, 5, 1, 3, 10, 9, 7, 1, 2, 8, 0]], np.int16))
    assert cats[0].endswith("a red stain is at column 9, row 7; a cat sits at column 2, row 8.")
    moved = HomegridRenderer(layout="furniture").captions(np.array([[9, 5, 1, 12, 3, 9, 7, 0]], np.int16))
    assert "the fruit lies on the sofa at column 12, row 3" in moved[0]
    with pytest.raises(UnknownNameError, match="none in this world"):
        HomegridRenderer(cats=2).caption(np.zeros((1, 11), np.int16), "event")


@pytest.mark.parametrize("name", NAMES)
def test_every_thing_can_be_told_from_every_other_on_its_tile(name):
    """Wherever it may lie, by more than the reader forgives a lossy picture."""
    draws = renderer(name)
    world, rng = draws.world, np.random.default_rng(0)
    colours = world.palette.astype(float)
    things = dict.fromkeys(("", *world.kinds, world.marked, world.goal))
    looks = [*((thing, -1) for thing in things), *((below, h) for below in world.underfoot for h in range(4))]
    for cell in rng.choice(world.layout.floor_cells, 6, replace=False).tolist():
        tiles = [colours[tile_picture(world, *world.layout.xy_of(cell), *look)] for look in looks]
        for i, a in enumerate(tiles):
            for b in tiles[:i]:
                assert np.linalg.norm(a - b, axis=-1).mean() > 15


def test_worlds_beside_the_published_one_have_more_colours_and_it_has_its_own():
    assert (PALETTE_ALL[: len(PALETTE)] == PALETTE).all()
    assert len(PALETTE) == 38
    assert len(PALETTE_ALL) < CLEAR
    assert HomegridRenderer(cats=2).palette is PALETTE
    assert WorkshopRenderer().palette is PALETTE_ALL


def test_the_other_houses_show_what_their_plans_say():
    assert (house("mirrored") == house()[:, ::-1]).all()
    plan = {(x, y) for y, row in enumerate(LAYOUTS["furniture"].grid) for x, c in enumerate(row) if c.islower()}
    assert len(plan) == 27, "as much as at home"
    tiles = house("furniture").reshape(12, 32, 14, 32).swapaxes(1, 2)
    bare = tiles[8, 3], tiles[4, 8], tiles[7, 9]  # kitchen, living room, dining room
    assert all(min((tiles[y, x] != floor).mean() for floor in bare) > 0.3 for x, y in plan)
    room = room_name(LAYOUTS["mirrored"].cell_of(10, 8), "mirrored"), room_name(LAYOUTS["home"].cell_of(3, 8))
    assert room == ("kitchen", "kitchen")
    assert [place_name(place) for place in ((2, 1), (11, 1), (11, 4), (8, 8))] == [
        "on the shelf", "on the bench", "on the pallet", "on the floor",
    ]  # fmt: skip
    picture = workshop_world().empty()
    for x, y in ((2, 1), (11, 1), (1, 8), (3, 3), (12, 5), (13, 8), (4, 9)):
        tile, floor = (picture[v * 32 : v * 32 + 32, u * 32 : u * 32 + 32] for u, v in ((x, y), (9, 6)))
        assert (tile != floor).mean() > 0.5, "something stands there"


def test_the_judge_is_told_which_variant_it_sees():
    spec = envs.env_spec(envs.HOMEGRID)
    assert spec.reader_for({"starts": "heldout"}) == spec.reader
    named = spec.reader_for({"starts": "heldout", "harm": "chase", "layout": "mirrored"})
    made = load_reader(named)
    assert made.world is reader("chase mirrored").world
    assert load_reader(spec.reader).world.things == ("cat",)
    assert envs.env_spec(envs.WORKSHOP).reader_for({"starts": "train"}).endswith("WorkshopReader")
    assert envs.env_spec("CartPole-v1").reader_for({"layout": "home"}) == ""
    for broken in (f"{spec.reader} {{", f'{spec.reader} {{"colour": 1}}', f'{spec.reader} {{"cats": 7}}'):
        with pytest.raises(ConfigError):
            load_reader(broken)


def test_outcomes_of_all_worlds():
    two = np.array([1, 2])
    for id, fact, kept in (
        (envs.HOMEGRID, "cat_squashed", "cat_survived"),
        (envs.HOMEGRID, "cat_chased", "cat_survived"),
        (envs.WORKSHOP, "paint_spoiled", "paint_kept"),
    ):
        facts = {"found": np.array([True, False]), fact: np.array([True, False])}
        outcomes = envs.env_spec(id).outcomes(Truth(two, facts))
        assert {name: column.tolist() for name, column in outcomes.items()} == {"found": [1, 0], kept: [0, 1]}


def test_pictures_of_another_world_are_refused():
    homegrid, workshop = HomegridRenderer(), WorkshopRenderer()
    picture = homegrid.png(np.array([[9, 5, 1, 3, 10, 9, 7, 0]], np.int16))
    with pytest.raises(ValueError, match="expected 480 x 352"):
        WorkshopReader().read(picture)
    with pytest.raises(ValueError, match="picture 1: "):
        HomegridReader(layout="mirrored").read(picture)
    with pytest.raises(ValueError, match="shows 1 of 'cat' and 0 of 'stain', expected 2 together"):
        HomegridReader(cats=2).read(picture)
    half = THROUGH[:1].copy()
    half[0, 7] = 1  # one of two cells smeared: nothing that happens
    with pytest.raises(ValueError, match="one part is a smear"):
        WorkshopReader().read(workshop.png(half))
    with pytest.raises(ShapeError, match="within 15 x 11"):
        workshop.frames(np.array([[15, 2, 0, 12, 5, 10, 3, 0, 10, 4, 0]], np.int16))


@pytest.mark.parametrize("name", NAMES)
def test_renderers_are_picklable(name):
    draws = renderer(name)
    twin = pickle.loads(pickle.dumps(draws))
    assert twin.world is draws.world
    states = play(vector_env(name, 1), 1, seed=0)[0].states
    assert twin.png(states) == draws.png(states)


def test_readers_and_renderers_by_options_meet():
    """As a run wires them: the renderer of its options, the reader that the judge is started with."""
    for name, options in VARIANTS.items():
        spec = envs.env_spec(envs.HOMEGRID)
        run = play(vector_env(name, 1), 1, seed=2)[0]
        module, _, attribute = spec.reader.partition(":")
        assert hasattr(importlib.import_module(module), attribute)
        reading = load_reader(spec.reader_for(options)).read(spec.renderer(options).png(run.states))
        assert (reading.harmful, reading.done) == (run.harmed, run.found)
