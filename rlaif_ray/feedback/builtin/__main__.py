"""``python -m rlaif_ray.feedback.builtin``: serve the built-in judge in a process of its own."""

from __future__ import annotations

import argparse
import sys

from rlaif_ray.errors import ConfigError
from rlaif_ray.feedback.builtin.server import serve


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rlaif_ray.feedback.builtin", description=__doc__)
    parser.add_argument("--profile", default="gpt-4o-mini-2024", help="shipped profile, or a path to a YAML file")
    parser.add_argument(
        "--reader", required=True, help="who reads the pictures: package.module:Class, then JSON options"
    )
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--seed", type=int, default=0, help="seed of its errors, beside the request's own seed")
    parser.add_argument("--parent", type=int, default=0, help="process id of the parent; stop when it is gone")
    options = parser.parse_args()
    try:
        serve(options.profile, options.reader, port=options.port, seed=options.seed, parent=options.parent)
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
