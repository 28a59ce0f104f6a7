"""``rlaif-ray`` as a step's process, by this interpreter: ``python -m homegrid_study.rlaif train ...``."""

from __future__ import annotations

from homegrid_study.processes import ends_with_parent
from rlaif_ray.cli import main

if __name__ == "__main__":
    ends_with_parent()
    raise SystemExit(main())
