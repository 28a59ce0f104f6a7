"""Requests and tokens a minute, held by waiting before an attempt is made."""

from __future__ import annotations

from aiolimiter import AsyncLimiter

from rlaif_ray.config import JudgeConfig

__all__ = ["RateLimits"]

# A leaky bucket grants what fits into it at once and the steady rate on top: a small bucket keeps the first minute
# honest. Requests: one second's worth. Tokens: a quarter of a minute's, as one question may be large.
_REQUEST_BURST_S = 1.0
_TOKEN_BURST_S = 15.0


class RateLimits:
    """Waits until one more request may go out. ``share`` is this asker's part of the configured limits, in (0, 1]."""

    def __init__(self, config: JudgeConfig, share: float = 1.0) -> None:
        self._requests = _bucket(config.requests_per_minute, share, _REQUEST_BURST_S)
        self._tokens = _bucket(config.tokens_per_minute, share, _TOKEN_BURST_S)

    async def wait(self, tokens: int) -> None:
        """Wait for room for one request of at most so many tokens (one larger than the bucket waits for a full one)."""
        if self._tokens is not None:
            await self._tokens.acquire(min(float(tokens), self._tokens.max_rate))
        if self._requests is not None:
            await self._requests.acquire()


def _bucket(per_minute: int | None, share: float, burst_s: float) -> AsyncLimiter | None:
    if per_minute is None:
        return None
    rate_s = per_minute * share / 60.0
    size = max(1.0, rate_s * burst_s)
    return AsyncLimiter(size, size / rate_s)
