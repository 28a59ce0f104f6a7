"""What the processor says of itself, where the system passes it on."""

from __future__ import annotations

from pathlib import Path

__all__ = ["processor_says"]


def processor_says(field: str) -> str:
    """A field of Linux's description of the first processor, as ``model name``; empty elsewhere."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith(field)), "")
