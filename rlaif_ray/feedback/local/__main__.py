"""``python -m rlaif_ray.feedback.local``: serve a GGUF file in a process of its own."""

from __future__ import annotations

import argparse
import sys

from rlaif_ray.errors import ConfigError
from rlaif_ray.feedback.local.server import serve


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rlaif_ray.feedback.local", description=__doc__)
    parser.add_argument("--gguf", required=True, help="path of the model, or smollm2")
    parser.add_argument("--mmproj", default="", help="path of the projector for pictures")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--threads", type=int, default=0, help="0: half the cores")
    parser.add_argument("--parent", type=int, default=0, help="process id of the parent; stop when it is gone")
    options = parser.parse_args()
    try:
        serve(options.gguf, options.mmproj, port=options.port, threads=options.threads, parent=options.parent)
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
