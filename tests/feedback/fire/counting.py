"""What is counted under fire: by a server that knows what it delivered, and in the store; and what must hold."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from feedback_fakes import FakeServer, completion

from rlaif_ray.feedback.budget import Amount, Caps
from rlaif_ray.feedback.store import LabelStore

USD_AN_ANSWER = 0.12  # 100 + 20 tokens at 1,000 USD a million
CONCURRENCY = 8


class CountingServer(FakeServer):
    """Answers after a while, by the question's content; counts each answer by what was asked."""

    def __init__(self, seed: int, slowest_s: float = 0.4) -> None:
        super().__init__(self._reply)
        self.delivered: Counter[str] = Counter()
        self._rng, self._slowest_s = random.Random(seed), slowest_s
        self.most = math.inf  # different ones; what is asked beyond is held back until there may be more

    def _reply(self, _: int, body: dict[str, Any]) -> Any:
        self.bodies[-1] = {}  # pictures of hours would not fit into memory
        content = json.dumps(body["messages"][-1]["content"], sort_keys=True)
        return self._answer(hashlib.sha256(content.encode()).hexdigest())

    async def _answer(self, name: str) -> Any:
        await asyncio.sleep(self._rng.uniform(0.05, self._slowest_s))
        while len(self.delivered) >= self.most:
            await asyncio.sleep(0.05)
        self.delivered[name] += 1
        return completion(answer="yes" if int(name[:8], 16) % 2 else "no")


@dataclass
class Outcome:
    """One stage's counts."""

    stage: str
    episodes: int = 0  # that must have a label at the end; 0: as many as there were
    kills: Counter[str] = field(default_factory=Counter)
    delivered: int = 0
    distinct: int = 0
    labelled: int = 0
    answers: int = 0
    spent: Amount = field(default_factory=Amount)
    reserved: Amount = field(default_factory=Amount)
    written_off: int = 0
    caps: Caps = field(default_factory=Caps)
    wall_s: float = 0.0
    trouble: list[str] = field(default_factory=list)  # found on the way

    def count(self, server: CountingServer, store: Path) -> Outcome:
        """Read the account, when nobody is asking any more."""
        self.delivered, self.distinct = sum(server.delivered.values()), len(server.delivered)
        with LabelStore(store) as opened:  # opening it writes off what the last ones left
            account = opened.account(self.caps)
            self.spent, self.reserved = account.spent, account.reserved
            self.labelled = len({label.episode_id for label in opened.labels() if label.value is not None})
            with opened.reading() as db:
                (self.answers,) = db.execute("SELECT count(*) FROM answers WHERE reason IS NULL").fetchone()
                (self.written_off,) = db.execute("SELECT count(*) FROM attempts WHERE state = 'written_off'").fetchone()
        return self

    def broken(self) -> list[str]:
        """The invariants that don't hold."""
        again = self.delivered - self.distinct
        holds = {
            "each episode has its label": not self.episodes or self.labelled == self.distinct == self.episodes,
            "nothing is left reserved": self.reserved.labels == 0,
            "billed by the server <= spent": self.delivered <= self.spent.labels
            and self.delivered * USD_AN_ANSWER <= self.spent.usd + 1e-6,
            "spent <= caps": self.spent.labels <= (self.caps.labels or 0)
            and self.spent.usd <= (self.caps.usd or 0.0) + 1e-6,
            "answers lost <= in flight at a kill": self.delivered - self.answers <= self.written_off,
            "asked again <= in flight at a kill": again <= self.written_off,
            "written off <= kills * concurrency": self.written_off <= sum(self.kills.values()) * CONCURRENCY,
        }
        return self.trouble + [name for name, held in holds.items() if not held]

    def table(self) -> str:
        kills = ", ".join(f"{count} {what}" for what, count in sorted(self.kills.items()))
        return (
            f"{self.stage}: killed {kills}; episodes labelled {self.labelled}; delivered {self.delivered}, answers "
            f"stored {self.answers}, asked again {self.delivered - self.distinct}; written off {self.written_off}, "
            f"spent {self.spent.labels} labels, ${self.spent.usd:.2f} (billed ${self.delivered * USD_AN_ANSWER:.2f}); "
            f"{self.wall_s:.0f} s"
        )

    def figures(self) -> dict[str, Any]:
        """For a file of results."""
        return asdict(self) | {
            "kills": dict(self.kills),
            "asked_again": self.delivered - self.distinct,
            "billed_usd": round(self.delivered * USD_AN_ANSWER, 2),
            "broken": self.broken(),
        }
