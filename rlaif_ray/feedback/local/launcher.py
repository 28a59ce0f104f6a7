"""Start and stop a local model's server in a process of its own: a model that crashes takes no run with it."""

from __future__ import annotations

from rlaif_ray.config import JudgeConfig
from rlaif_ray.feedback.local.model import find_model
from rlaif_ray.feedback.serving import ServerProcess

__all__ = ["LocalModel"]

# A model of tens of GB is read from disk once.
_START_S = 600.0


class LocalModel(ServerProcess):
    """A GGUF file served as long as this object lives, and no longer than this process.

    ::

        with LocalModel() as model:
            config = model.start(JudgeConfig(kind="logodds", gguf="smollm2"))  # now with base_url and model
    """

    what = "the local model's server"

    def start(self, config: JudgeConfig, *, threads: int = 0) -> JudgeConfig:
        """Serve ``config.gguf`` and wait until it answers; returns the config with its address and its name.

        Raises ConfigError: no such model, xllamacpp isn't there or can't load it, or it runs already.
        """
        model = find_model(config.gguf, config.mmproj)
        words = ["--gguf", config.gguf, "--mmproj", config.mmproj, "--threads", str(threads)]
        url = self.launch("rlaif_ray.feedback.local", words, _START_S)
        return config.model_copy(update={"base_url": url, "model": model.name})
