"""Start and stop the built-in judge in a process of its own."""

from __future__ import annotations

from rlaif_ray.feedback.builtin.profile import load_profile
from rlaif_ray.feedback.serving import ServerProcess

__all__ = ["BuiltinJudge"]


class BuiltinJudge(ServerProcess):
    """A built-in judge that lives as long as this object, and no longer than this process.

    ::

        with BuiltinJudge() as judge:
            base_url = judge.start("perfect", "rlaif_ray.envs.homegrid_reader:HomegridReader")
    """

    what = "the built-in judge"

    def start(self, profile: str, reader: str, port: int = 0, seed: int = 0) -> str:
        """Start it and wait until it answers; returns its base URL.

        Prefer ``judge.seed``, which is part of a question's address, over ``seed`` for other errors of the judge.

        Raises ConfigError: no such profile or reader, a port in use, or it runs already.
        """
        load_profile(profile)  # its mistakes are told before a process is started
        words = ["--profile", profile, "--reader", reader, "--port", str(port), "--seed", str(seed)]
        return self.launch("rlaif_ray.feedback.builtin", words)
