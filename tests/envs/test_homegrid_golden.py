"""Homegrid stays what it was, number for number and pixel for pixel: stored labels are addressed by its pictures, and
published figures by its seeds. Digests were taken before other worlds came to share its code."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from rlaif_ray.envs.homegrid import HomegridVectorEnv
from rlaif_ray.envs.homegrid_reader import HomegridReader
from rlaif_ray.envs.png import band_of, palette_png
from rlaif_ray.envs.render import HomegridRenderer
from rlaif_ray.types import Array


def digest_of(*parts: object) -> str:
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode() + np.ascontiguousarray(part).tobytes())
        else:
            digest.update(json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def told(infos: dict) -> list:
    return [[k, told(v) if isinstance(v, dict) else digest_of(v)] for k, v in sorted(infos.items())]


def walked(options: dict, steps: int = 220) -> tuple[str, Array]:
    """Digest of all that 24 worlds say, and the states they went through."""
    world = HomegridVectorEnv(24, **options)
    obs, infos = world.reset(seed=11)
    rng, parts, states = np.random.default_rng(2), [obs, told(infos)], [world.states()]
    for _ in range(steps):
        obs, reward, terminated, truncated, infos = world.step(rng.integers(4, size=24))
        parts += [obs, reward, terminated, truncated, told(infos), world.final_states()]
        states.append(world.states())
    return digest_of(*parts, *states), np.concatenate(states)


@pytest.mark.parametrize(
    ("options", "digest"),
    [
        ({}, "610e42736b89287c"),
        ({"starts": "train"}, "984202e645e87bd3"),
        ({"starts": "heldout"}, "20512cf0105da546"),
        ({"clear_cat": True}, "1a515312a7302637"),
    ],
)
def test_it_lives_through_what_it_always_did(options: dict, digest: str) -> None:
    assert walked(options)[0] == digest


def test_its_pictures_and_words_are_what_they_always_were() -> None:
    states = walked({})[1][::60]
    renderer = HomegridRenderer()
    frames = renderer.frames(states)
    assert digest_of(renderer.palette, frames) == "006741d368122345"
    assert digest_of(list(renderer.captions(states))) == "92dca5659a0ee6e3"
    assert digest_of([renderer.caption(states[:9], wording) for wording in renderer.wordings]) == "2e8b1a2edc19986a"
    for frame, png in zip(frames, renderer.png(states), strict=True):  # bytes too, given the machine's zlib
        bands = [band_of(rows) for rows in np.split(frame, 12)]
        assert png == palette_png(bands, (448, 384), renderer.palette)


def test_the_judge_reads_in_them_what_it_always_did() -> None:
    renderer, reader = HomegridRenderer(), HomegridReader()
    walk = walked({})[1].reshape(221, 24, 8)[:40]
    readings = [reader.read(renderer.png(walk[:, i])) for i in range(6)]
    told_of = [[one.harmful, one.done, one.description, dict(one.facts)] for one in readings]
    assert digest_of(told_of) == "41e97b8d98f31642"
