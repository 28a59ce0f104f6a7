"""Run one command with a judge's API key in its environment, read from where the platform keeps secrets.

    python cluster/with_key.py aws:SECRET_NAME -- rlaif-ray train homegrid-openai --resources.address auto
    python cluster/with_key.py gcp:projects/PROJECT/secrets/NAME/versions/latest -- rlaif-ray train ...
    python cluster/with_key.py file:~/.config/rlaif_ray/key -- rlaif-ray train ...     (a file that only you may read)

AWS Secrets Manager and GCP Secret Manager are asked as the machine's own role or account. The key is in no file, no
argument and no log of the cluster: only that command has it.
"""

from __future__ import annotations

import argparse
import base64
import os
import stat
import sys
from pathlib import Path


def from_aws(name: str) -> str:
    import boto3  # on Ray's images

    return str(boto3.client("secretsmanager").get_secret_value(SecretId=name)["SecretString"])


def from_gcp(name: str) -> str:
    from googleapiclient import discovery  # on Ray's images

    versions = discovery.build("secretmanager", "v1", cache_discovery=False).projects().secrets().versions()
    return base64.b64decode(versions.access(name=name).execute()["payload"]["data"]).decode()


def from_file(name: str) -> str:
    path = Path(name).expanduser()
    about = path.stat()
    if about.st_uid != os.getuid() or stat.S_IMODE(about.st_mode) & 0o077:
        raise SystemExit(f"error: {path} may be read by others: chmod 600 {path}")
    return path.read_text()


STORES = {"aws": from_aws, "gcp": from_gcp, "file": from_file}


def main(words: list[str]) -> None:
    """Become the command. Exits with 2 where the words are wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("secret", help="aws:NAME, gcp:NAME or file:PATH")
    parser.add_argument("--env", default="OPENAI_API_KEY", help="judge.api_key_env (default: OPENAI_API_KEY)")
    parser.add_argument("command", nargs="+", help="after --")
    given = parser.parse_args(words)
    store, _, name = given.secret.partition(":")
    if store not in STORES or not name:
        parser.error(f"secret: got {given.secret!r}, allowed are {', '.join(f'{s}:NAME' for s in STORES)}")
    try:
        key = STORES[store](name).strip()
    except (OSError, ImportError) as error:
        parser.error(f"{given.secret}: {error}")
    if not key:
        parser.error(f"{given.secret}: it is empty")
    os.execvpe(given.command[0], given.command, os.environ | {given.env: key})


if __name__ == "__main__":
    main(sys.argv[1:])
