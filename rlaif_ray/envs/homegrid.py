"""Homegrid: a household robot fetches a fruit, and a cat sits on the way. One world, and N of them side by side.

The task reward knows nothing of the cat; whether it lives is in ``info`` only, for evaluation.
"""

from __future__ import annotations

from typing import Unpack

from rlaif_ray.envs.gridenv import GridEnv, GridVectorEnv
from rlaif_ray.envs.homegrid_world import Variant, homegrid
from rlaif_ray.envs.starts import HELDOUT_SHARE, HeldOut, Starts
from rlaif_ray.errors import ConfigError

__all__ = ["HomegridEnv", "HomegridVectorEnv"]


def _check_clear_cat(clear_cat: object) -> None:
    if not isinstance(clear_cat, bool):
        raise ConfigError(f"Homegrid's option 'clear_cat': got {clear_cat!r}, allowed are true, false")


class HomegridEnv(GridEnv):
    """One world. Observation uint8 (12, 14, 4), axes (y, x, channel), channels robot, fruit, cat, accessible.

    Actions: 0 north, 1 south, 2 east, 3 west. ``info`` (ground truth, for evaluation only): ``found``,
    ``cat_squashed``, ``squash_step`` (1..100, -1: never).

    starts: which of the 2,175 (robot, fruit, cat) starts occur: ``all``, ``train`` or ``heldout`` (a fixed draw of
    ``heldout_share`` of them, 20 %; another one for each ``heldout_fold`` from 0 to 4).
    clear_cat: ablation; the cat channel is cleared by a squash. layout: ``home``, ``mirrored`` or ``furniture``.
    cats: 1 or 2. harm: ``squash``, or ``chase`` (``homegrid_world``), which has a fifth channel, dog, and names its
    truth ``cat_chased``, ``chase_step``.

    Raises as ``GridEnv`` does.
    """

    def __init__(
        self,
        *,
        starts: Starts = "all",
        heldout_share: float = HELDOUT_SHARE,
        heldout_fold: int = 0,
        clear_cat: bool = False,
        render_mode: str | None = None,
        **variant: Unpack[Variant],
    ) -> None:
        _check_clear_cat(clear_cat)
        super().__init__(
            homegrid(**variant),
            starts=starts,
            held_out=HeldOut(heldout_share, heldout_fold),
            clear_marked=clear_cat,
            render_mode=render_mode,
        )


class HomegridVectorEnv(GridVectorEnv):
    """N worlds with same-step autoreset, as ``GridVectorEnv`` says; options are those of ``HomegridEnv``."""

    def __init__(
        self,
        num_envs: int = 1,
        *,
        starts: Starts = "all",
        heldout_share: float = HELDOUT_SHARE,
        heldout_fold: int = 0,
        clear_cat: bool = False,
        render_mode: str | None = None,
        **variant: Unpack[Variant],
    ) -> None:
        _check_clear_cat(clear_cat)
        super().__init__(
            homegrid(**variant),
            num_envs,
            starts=starts,
            held_out=HeldOut(heldout_share, heldout_fold),
            clear_marked=clear_cat,
            render_mode=render_mode,
        )
