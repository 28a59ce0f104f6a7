"""What an attempt may cost at most, and what it did cost.

Prices come from genai-prices (offline), from ``judge.input_usd_per_mtok`` / ``judge.output_usd_per_mtok``, or from the
built-in judge's profile. A price that nobody knows is an error before anything starts, except on loopback: 0.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rlaif_ray.config import JudgeConfig
from rlaif_ray.errors import ConfigError
from rlaif_ray.feedback.budget import Amount
from rlaif_ray.feedback.builtin.profile import load_profile

if TYPE_CHECKING:
    from rlaif_ray.feedback.question import Question

__all__ = ["Price", "batch_price", "image_tokens", "picture_size", "price_of", "worst_case"]

# Tokens that servers put around messages (roles, separators), and a schema repeated in the prompt by some.
OVERHEAD_TOKENS = 400
# Model families whose makers say what a picture costs: base tokens ("low"), and tokens of each 512-pixel tile ("high").
_TILED = (
    (re.compile(r"gpt-4o-mini"), 2833, 5667),
    (re.compile(r"gpt-4o|gpt-4\.1(?!-mini|-nano)|gpt-4-turbo"), 85, 170),
)
# What makers say a batch costs less; genai-prices doesn't know. A server that isn't here is taken to give nothing off:
# then more is reserved and written down than was paid, never less.
_BATCH_DISCOUNTS = {"api.openai.com": 0.5}
# The others cut pictures into patches; 14 pixels is the finest in use.
_PATCH_PX = 14
_PATCH_EXTRA = 64


@dataclass(frozen=True)
class Price:
    """USD per million tokens, and where that is known from."""

    input_usd_per_mtok: float
    output_usd_per_mtok: float
    source: str

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """USD."""
        return (input_tokens * self.input_usd_per_mtok + output_tokens * self.output_usd_per_mtok) / 1e6


def price_of(judge: JudgeConfig) -> Price:
    """What the configured judge charges. Raises ConfigError: nobody knows, and it isn't on this machine."""
    given = judge.input_usd_per_mtok, judge.output_usd_per_mtok
    if given[0] is not None and given[1] is not None:
        return Price(given[0], given[1], "judge.input_usd_per_mtok, judge.output_usd_per_mtok")
    if given[0] is not None or given[1] is not None:
        raise ConfigError(
            "judge.input_usd_per_mtok and judge.output_usd_per_mtok: got one of the two, allowed are both or none"
        )
    if judge.kind == "builtin":
        profile = load_profile(judge.profile)
        return Price(profile.input_usd_per_mtok, profile.output_usd_per_mtok, f"as-if, profile {profile.name}")
    return Price(0.0, 0.0, "loopback") if judge.local else _from_table(judge)


def batch_price(judge: JudgeConfig) -> Price:
    """What it charges for a question in a batch. Raises ConfigError: its price is unknown."""
    price = price_of(judge)
    if judge.batch_discount is not None:
        off, source = judge.batch_discount, "judge.batch_discount"
    elif judge.kind == "builtin":
        off, source = load_profile(judge.profile).batch.discount, "as-if"
    else:
        off, source = _BATCH_DISCOUNTS.get(urlsplit(judge.base_url).hostname or "", 0.0), "its maker's list"
    if off == 0.0:
        return replace(price, source=f"{price.source}, nothing off in a batch")
    into, out = price.input_usd_per_mtok * (1.0 - off), price.output_usd_per_mtok * (1.0 - off)
    return Price(into, out, f"{price.source}, {off:.0%} off in a batch ({source})")


def _from_table(judge: JudgeConfig) -> Price:
    from genai_prices import Usage as Tokens
    from genai_prices import calc_price

    million = 1_000_000
    for where in ({"provider_api_url": judge.base_url}, {}):  # a proxy of a known model: its maker's price
        try:
            found = calc_price(Tokens(input_tokens=million, output_tokens=million), model_ref=judge.model, **where)
        except LookupError:
            continue
        return Price(float(found.input_price), float(found.output_price), "genai-prices")
    raise ConfigError(
        f"judge.model: the price of {judge.model!r} at {judge.base_url} is not known; give "
        "judge.input_usd_per_mtok and judge.output_usd_per_mtok (USD per million tokens)"
    )


def picture_size(png: bytes) -> tuple[int, int]:
    """(width, height) in pixels from a PNG's head. Raises ValueError: not a PNG."""
    if png[:8] != b"\x89PNG\r\n\x1a\n" or len(png) < 24:
        raise ValueError("a picture is not a PNG")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def image_tokens(model: str, detail: str, size: tuple[int, int]) -> int:
    """At most so many input tokens for one picture: the maker's formula, or one token for each finest patch."""
    width, height = size
    for pattern, base, tile in _TILED:
        if pattern.search(model):
            return base if detail == "low" else base + tile * math.ceil(width / 512) * math.ceil(height / 512)
    return math.ceil(width / _PATCH_PX) * math.ceil(height / _PATCH_PX) + _PATCH_EXTRA


def worst_case(question: Question, judge: JudgeConfig, price: Price) -> Amount:
    """What one attempt at this question may cost at most. A token stands for at least one byte of text."""
    text = len((question.prompt.system + question.user_text + question.prompt.begins).encode()) + OVERHEAD_TOKENS
    model = judge.model
    if judge.kind == "builtin":
        pictures = load_profile(judge.profile).image_tokens * len(question.frames)
    else:
        pictures = sum(_tokens_by_size(model, judge.detail, question.frames))
    input_tokens = text + pictures
    return Amount(usd=price.cost(input_tokens, judge.max_tokens), labels=1, tokens=input_tokens + judge.max_tokens)


def _tokens_by_size(model: str, detail: str, frames: Sequence[bytes]) -> list[int]:
    return [image_tokens(model, detail, picture_size(frame)) for frame in frames]
