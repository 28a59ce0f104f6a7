"""A real language model on this machine: any GGUF file, served by llama.cpp's own server (extra ``local-judge``)."""

from __future__ import annotations

from rlaif_ray.feedback.local.launcher import LocalModel
from rlaif_ray.feedback.local.model import ModelFile, find_model

__all__ = ["LocalModel", "ModelFile", "find_model"]
