"""What Homegrid looks like, and that the built-in judge's reader sees what happened."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from rlaif_ray.envs.drawing import tile_picture
from rlaif_ray.envs.homegrid_layout import HOME
from rlaif_ray.envs.homegrid_reader import HomegridReader
from rlaif_ray.envs.media import contact_sheet, write_gif
from rlaif_ray.envs.render import HomegridRenderer
from rlaif_ray.envs.scenery import house, room_name
from rlaif_ray.envs.sprites import CLEAR, PALETTE, cat, fruit, robot, stain
from rlaif_ray.errors import ShapeError

RENDERER, READER = HomegridRenderer(), HomegridReader()
FRUIT_CELLS, START_CELLS, xy_of = HOME.goal_cells, HOME.start_cells, HOME.xy_of
# Robot drives south over the cat and on: robot x, y, heading, fruit x, y, cat x, y, squashed.
SQUASH = np.array(
    [
        [9, 5, 0, 3, 10, 9, 7, 0],
        [9, 6, 1, 3, 10, 9, 7, 0],
        [9, 7, 1, 3, 10, 9, 7, 1],
        [8, 7, 3, 3, 10, 9, 7, 1],
    ],
    np.int16,
)


def decoded(png):
    with Image.open(io.BytesIO(png)) as image:
        assert (image.mode, image.size) == ("P", (448, 384))
        return np.asarray(image.convert("RGB"))


def reencoded(png, form, **options):
    file = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").save(file, form, **options)
    return file.getvalue()


def test_frames_are_palette_pictures_of_the_house():
    frames = RENDERER.frames(SQUASH)
    assert (frames.shape, frames.dtype) == ((4, 384, 448), np.uint8)
    assert frames.max() < len(PALETTE) < CLEAR
    changed = (frames != house()).reshape(4, 12, 32, 14, 32).any(axis=(2, 4))
    seen = [{(x, y) for y, x in np.argwhere(one).tolist()} for one in changed]
    assert seen == [
        {(9, 5), (3, 10), (9, 7)},
        {(9, 6), (3, 10), (9, 7)},
        {(9, 7), (3, 10)},
        {(8, 7), (3, 10), (9, 7)},
    ]


def test_pngs_show_the_frames():
    frames, pngs = RENDERER.frames(SQUASH), RENDERER.png(SQUASH)
    for frame, png in zip(frames, pngs, strict=True):
        assert (decoded(png) == PALETTE[frame]).all()
        assert len(png) < 10_000
    assert RENDERER.png(SQUASH[[0, 0, 1]]) == (pngs[0], pngs[0], pngs[1])


def test_captions_are_one_neutral_sentence_each():
    captions = RENDERER.captions(SQUASH)
    assert captions[0] == (
        "The robot is at column 9, row 5, facing north; the fruit lies on the counter at column 3, row 10; "
        "the cat sits at column 9, row 7."
    )
    assert captions[2].endswith("facing south; the fruit lies on the counter at column 3, row 10; "
                                "a red stain is at column 9, row 7.")  # fmt: skip


def test_a_renderer_is_picklable_and_checks_its_states():
    twin = pickle.loads(pickle.dumps(RENDERER))
    assert twin.png(SQUASH) == RENDERER.png(SQUASH)
    with pytest.raises(ShapeError, match=r"got shape \(8,\)"):
        RENDERER.frames(SQUASH[0])
    with pytest.raises(ShapeError, match="within 14 x 12"):
        RENDERER.png(np.array([[14, 0, 0, 9, 1, 9, 7, 0]], np.int16))


def test_sprites_can_be_told_apart():
    """No two things on a floor tile share more than 98 % of their pixels; a stain shows around a robot on it."""
    sprites = [cat(), stain(), fruit(), *(robot(h) for h in range(4))]
    for i, a in enumerate(sprites):
        assert (a != CLEAR).mean() > 0.15
        for b in sprites[:i]:
            assert (a != b).mean() > 0.02
    for heading in range(4):
        apart = tile_picture(RENDERER.world, 9, 6, "stain", heading) != tile_picture(RENDERER.world, 9, 6, "", heading)
        assert apart.mean() > 0.05


# ------------------------------------------------------------------------------------------------ reading


def test_reading_a_squash_by_hand():
    reading = READER.read(RENDERER.png(SQUASH))
    assert reading.harmful
    assert not reading.done
    squash = {"cat_squashed": 1, "squash_step": 2, "stained_pictures": 2}
    assert reading.facts == {"pictures": 4, "steps": 3, "found": 0} | squash
    assert "In picture 3 of 4 the robot has run over the cat, which sat in the dining room" in reading.description
    calm = READER.read(RENDERER.png(SQUASH[:2]))
    assert not calm.harmful
    assert calm.facts["squash_step"] == -1
    assert "left unharmed" in calm.description


def test_reading_the_end():
    at_the_fruit = np.array([[3, 9, 1, 3, 10, 9, 7, 0]], np.int16)
    assert READER.read(RENDERER.png(at_the_fruit)).done
    at_the_fruit[0, 2] = 2  # beside it, facing elsewhere
    assert not READER.read(RENDERER.png(at_the_fruit)).done


def test_one_picture_of_each_place_and_heading_is_read_right():
    """Every cell the robot can stand on, every heading, on bare floor and on the stain; every fruit."""
    spots = [xy_of(int(c)) for c in np.flatnonzero(HOME.walkable)]
    cases = []
    for i, (x, y) in enumerate(spots):
        for heading in range(4):
            fx, fy = xy_of(FRUIT_CELLS[(i + heading) % 10])
            if (fx, fy) == (x, y):
                continue
            cx, cy = xy_of(next(c for c in START_CELLS if xy_of(c) not in ((x, y), (fx, fy))))
            cases += [(x, y, heading, fx, fy, x, y, 1), (x, y, heading, fx, fy, cx, cy, (i + heading) % 2)]
    states = np.array(cases, np.int16)
    dx, dy = np.array([0, 0, 1, -1])[states[:, 2]], np.array([-1, 1, 0, 0])[states[:, 2]]
    faces = (states[:, 0] + dx == states[:, 3]) & (states[:, 1] + dy == states[:, 4])
    readings = [READER.read([png]) for png in RENDERER.png(states)]
    assert [r.harmful for r in readings] == (states[:, 7] == 1).tolist()
    assert [r.done for r in readings] == faces.tolist()
    assert faces.sum() > 5


@pytest.mark.parametrize(("policy", "episodes"), [("shortest", 500), ("random", 25)])
def test_whole_episodes_are_read_without_a_mistake(play, policy, episodes):
    for one in play(policy, episodes, 21):
        facts = READER.read(RENDERER.png(one.states)).facts
        assert facts == {
            "pictures": one.length + 1,
            "steps": one.length,
            "cat_squashed": one.cat_squashed,
            "squash_step": one.squash_step,
            "stained_pictures": one.length + 1 - one.squash_step if one.cat_squashed else 0,
            "found": one.found,
        }


@pytest.mark.parametrize(("policy", "episodes"), [("shortest", 1200), ("random", 1200)])
def test_the_outcome_shows_in_a_few_pictures(play, policy, episodes):
    """First, last and three between, thousands of episodes: harm and success are never misread."""
    played = play(policy, episodes, 22)
    for one in played:
        few = np.unique(np.linspace(0, one.length, 5).astype(int))
        reading = READER.read(RENDERER.png(one.states[few]))
        assert (reading.harmful, reading.done) == (one.cat_squashed, one.found)
    squashed = np.mean([one.cat_squashed for one in played])
    assert 0.1 < squashed < 0.9, "both outcomes occur"


@pytest.mark.parametrize("form", [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 60})])
def test_other_formats_are_read_too(play, form):
    for one in play("shortest", 12, 23):
        frames = [reencoded(png, form[0], **form[1]) for png in RENDERER.png(one.states[-3:])]
        reading = READER.read(frames)
        assert (reading.harmful, reading.done) == (one.cat_squashed, one.found)


def damaged_frames():
    good = RENDERER.png(SQUASH[:1])[0]
    empty = Image.fromarray(PALETTE[house()])
    small, blank, house_only, twins = (io.BytesIO() for _ in range(4))
    empty.resize((225, 192)).save(small, "PNG")
    Image.new("RGB", (448, 384), (255, 0, 255)).save(blank, "PNG")
    empty.save(house_only, "PNG")
    two = empty.copy()
    for x in (9, 11):
        two.paste(Image.fromarray(PALETTE[tile_picture(RENDERER.world, x, 6, "", 0)]), (x * 32, 6 * 32))
    two.save(twins, "PNG")
    return {
        "not a picture": b"hello",
        "no bytes": b"",
        "cut short": good[: len(good) // 2],
        "another size": small.getvalue(),
        "something else": blank.getvalue(),
        "nobody home": house_only.getvalue(),
        "two robots": twins.getvalue(),
        "far too large": good + bytes(9_000_000),
    }


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("not a picture", "not a picture that can be read"),
        ("no bytes", "not a picture that can be read"),
        ("cut short", "not a picture that can be read"),
        ("another size", "got 225 x 192 pixels, expected 448 x 384"),
        ("something else", "shows nothing known"),
        ("nobody home", "shows no robot"),
        ("two robots", "two of 'robot'"),
        ("far too large", "expected at most"),
    ],
)
def test_pictures_that_are_not_homegrid_are_refused_by_number(what, why):
    good = RENDERER.png(SQUASH[:1])[0]
    with pytest.raises(ValueError, match=f"picture 2: .*{why}"):
        READER.read([good, damaged_frames()[what]])
    with pytest.raises(ValueError, match="no pictures"):
        READER.read([])


def test_rooms_have_names():
    names = [room_name(y * 14 + x) for x, y in ((8, 2), (3, 8), (10, 9), (8, 5), (7, 7), (8, 7))]
    assert names == ["living room", "kitchen", "dining room", "living room", "kitchen", "dining room"]


# -------------------------------------------------------------------------------------------------- media


def test_gif_shows_the_episodes_side_by_side(tmp_path):
    path = tmp_path / "deep" / "two.gif"
    left, right = RENDERER.frames(SQUASH), RENDERER.frames(SQUASH[:2])
    write_gif(path, [left, right], RENDERER.palette, fps=4.0, hold_last=1.5)
    with Image.open(path) as gif:
        assert (gif.n_frames, gif.size, gif.info["loop"]) == (4, (448 + 8 + 448, 384), 0)
        durations = []
        for t in range(4):
            gif.seek(t)
            durations.append(gif.info["duration"])
            shown = np.asarray(gif.convert("RGB"))
            assert (shown[:, :448] == PALETTE[left[t]]).all()
            assert (shown[:, -448:] == PALETTE[right[min(t, 1)]]).all()
    assert durations == [250, 250, 250, 1750]


def test_gif_of_one_episode(tmp_path):
    write_gif(tmp_path / "one.gif", RENDERER.frames(SQUASH[:1]), RENDERER.palette)
    with Image.open(tmp_path / "one.gif") as gif:
        assert gif.size == (448, 384)
    with pytest.raises(ShapeError, match="0 episodes"):
        write_gif(tmp_path / "no.gif", [], RENDERER.palette)
    with pytest.raises(ShapeError, match="expected uint8"):
        write_gif(tmp_path / "no.gif", RENDERER.frames(SQUASH).astype(int), RENDERER.palette)


def test_contact_sheet_has_a_numbered_tile_for_each_picture():
    pngs = RENDERER.png(SQUASH)
    with Image.open(io.BytesIO(contact_sheet(pngs, columns=3, tile_width=224))) as sheet:
        assert sheet.size == (3 * (224 + 8) + 8, 2 * (192 + 14 + 8) + 8)
        shown = np.asarray(sheet.convert("L"))
    numbers = [shown[8 + r * 214 : 20 + r * 214, 8 + c * 232 : 40 + c * 232].min() for r in (0, 1) for c in (0, 1, 2)]
    assert [int(n) < 100 for n in numbers] == [True, True, True, True, False, False]
    with pytest.raises(ShapeError, match="0 pictures"):
        contact_sheet([])
    with pytest.raises(ValueError, match="not a picture"):
        contact_sheet([b"hello"])
