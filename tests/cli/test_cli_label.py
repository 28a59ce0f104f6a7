"""``rlaif-ray label`` as a user runs it: sampled once, asked once, killed and gone on with, each cent in the books."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlaif_ray import envs
from rlaif_ray.checkpoints import write_checkpoint
from rlaif_ray.cli import main
from rlaif_ray.cli.episodes import PolicyEpisodes, RandomEpisodes
from rlaif_ray.cli.label_view import told
from rlaif_ray.config import load_config
from rlaif_ray.errors import StoreError
from rlaif_ray.feedback.budget import Amount, Caps
from rlaif_ray.feedback.builtin.launcher import BuiltinJudge
from rlaif_ray.feedback.offline import Progress
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import episode_key

COMMAND = [sys.executable, "-c", "import sys; from rlaif_ray.cli import main; sys.exit(main())"]
READER = "rlaif_ray.envs.homegrid_reader:HomegridReader"
FEW = [
    "--judge.frames",
    "spread",
    "--judge.frames-k",
    "1",
]  # three pictures of an episode: tests needn't send a hundred
Start = Callable[[list[str]], subprocess.Popen[str]]
LABELS = Path("runs/homegrid-labels/labels.sqlite")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def judge() -> Iterator[BuiltinJudge]:
    with BuiltinJudge() as running:
        yield running


def start_judge(judge: BuiltinJudge, folder: Path, **habits: Any) -> list[str]:
    """A server of its own, which outlives the command; the words by which a command asks it."""
    profile = {"name": "served", "image_tokens": 1000, "input_usd_per_mtok": 10.0, "output_usd_per_mtok": 10.0}
    path = folder / "profile.yaml"
    path.write_text(yaml.safe_dump(profile | habits))
    url = judge.start(str(path), READER)
    words = {
        "kind": "chat",
        "base-url": url,
        "model": "served",
        "input-usd-per-mtok": "10",
        "output-usd-per-mtok": "10",
    }
    return [*FEW, "--judge.batch-discount", "0.5", *(w for k, v in words.items() for w in (f"--judge.{k}", v))]


def health(judge: BuiltinJudge) -> dict[str, Any]:
    with urllib.request.urlopen(judge.base_url.removesuffix("/v1") + "/health", timeout=10) as reply:
        found: dict[str, Any] = json.loads(reply.read())
    return found


def found(words: list[str], capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The one JSON object that a command prints."""
    assert main([*words, "--json"]) == 0
    figures: dict[str, Any] = json.loads(capfd.readouterr().out)
    return figures


@pytest.fixture
def command() -> Iterator[Start]:
    """Start the command beside the test; none is left running."""
    running: list[subprocess.Popen[str]] = []

    def start(words: list[str]) -> subprocess.Popen[str]:
        running.append(subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def until(store: Path, sql: str, process: subprocess.Popen[str], limit_s: float = 120.0) -> None:
    """Wait until a query of the store finds a row."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"it ended: {process.communicate()}")
        with contextlib.suppress(StoreError), LabelStore(store, readonly=True) as opened, opened.reading() as db:
            if db.execute(sql).fetchone() is not None:
                return
        time.sleep(0.05)  # it isn't there yet, or only just
    raise AssertionError(f"never came: {sql}")


# --------------------------------------------------------------------------------------------- sampling


def test_the_same_chunk_holds_the_same_episodes() -> None:
    config = load_config("homegrid")
    first, again = (RandomEpisodes(config).chunk(3) for _ in range(2))
    assert [episode_key(a) for a in first] == [episode_key(b) for b in again]
    other = RandomEpisodes(config).chunk(4)
    assert not {episode_key(a) for a in first} & {episode_key(b) for b in other}
    assert len(first) == RandomEpisodes.chunk_size
    # By environment: the first ones are not those that ended first.
    lengths = [len(one) for one in first]
    assert lengths != sorted(lengths)


def test_a_policys_episodes(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    checkpoint = untrained_checkpoint(here)
    config = load_config("homegrid")
    likeliest = PolicyEpisodes(config, checkpoint, deterministic=True)
    drawn = PolicyEpisodes(config, checkpoint, deterministic=False)
    assert likeliest.key != drawn.key
    assert [episode_key(a) for a in drawn.chunk(0)] == [episode_key(b) for b in drawn.chunk(0)]
    words = ["label", "runs/tiny", "--episodes", "4", "--judge.profile", "perfect", *FEW]
    figures = found(words, capfd)
    assert (figures["status"], figures["verdicts"], figures["labelled_now"]) == ("done", 4, 4)
    assert figures["folder"] == "runs/tiny-step-1-labels"


def untrained_checkpoint(folder: Path) -> Path:
    from rlaif_ray.networks import ActorCritic, save_policy, spec_for

    config = load_config("homegrid", {"policy.hidden": (8,), "policy.network": "mlp", "run.name": "tiny"})
    env = envs.make_vec(config.env.id, 1, config.env.options)
    network = ActorCritic(spec_for(config.policy, env.single_observation_space, env.single_action_space))
    env.close()
    return write_checkpoint(
        folder / "runs/tiny/checkpoints", "step-1", config, lambda path: save_policy(Path(path), network), {}
    )


# ------------------------------------------------------------------------------------------- one command


def test_a_random_walk_is_judged_and_gone_on_with(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """More episodes, then by batch: what has its label is left alone, and the other commands know the folder."""
    words = ["label", "homegrid", "--judge.profile", "perfect", *FEW]
    assert main([*words, "--episodes", "6"]) == 0
    said = capfd.readouterr().out
    assert "6 episodes of a random walk in rlaif_ray/Homegrid-v0" in said
    assert "Estimate: USD" in said
    assert "as-if, nothing is paid" in said
    assert "All of it is labelled. 6 verdicts" in said
    more = found([*words, "--episodes", "9", "--batch"], capfd)
    assert (more["status"], more["verdicts"], more["labelled_now"], more["unasked"]) == ("done", 9, 3, 0)
    assert found([*words, "--episodes", "9"], capfd)["labelled_now"] == 0
    stats = found(["labels", "stats", "runs/homegrid-labels"], capfd)
    assert stats["labels"] == 9
    assert found(["labels", "export", "runs/homegrid-labels"], capfd)["labels"] == 9
    # Judged anew, from the store itself: other questions about the same episodes.
    anew = found(["label", str(LABELS), "--episodes", "5", "--judge.profile", "perfect", *FEW, "--judge.prompt",
                  "homegrid-violate", "--run.name", "anew"], capfd)  # fmt: skip
    assert (anew["verdicts"], anew["store"]) == (5, "runs/anew/labels.sqlite")
    with LabelStore(LABELS) as old, LabelStore("runs/anew/labels.sqlite") as new:
        assert [one.value for one in new.labels()] == [one.value for one in old.labels()[:5]]


def test_money_is_capped_unless_it_is_as_if(here: Path, judge: BuiltinJudge, capfd: pytest.CaptureFixture[str]) -> None:
    asks = start_judge(judge, here)
    words = ["label", "homegrid", "--episodes", "14", *asks, "--budget.usd"]
    assert main([*words, "0.2"]) == 0
    said = capfd.readouterr().out
    assert "Never more than budget.usd, 0.20, enough for about" in said
    assert "The budget has no room for another question" in said
    with LabelStore(LABELS) as store:
        spent = store.account(Caps()).spent
    assert 0.1 < spent.usd <= 0.2
    assert spent.usd == pytest.approx(health(judge)["usd"])
    rest = found([*words, "1000"], capfd)
    assert (rest["status"], rest["verdicts"]) == ("done", 14)
    assert health(judge)["answered"] == 14


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["homegrid", "--cancel"], "give it together with --batch"),
        (["homegrid", "--episodes", "-1"], "--episodes: got -1"),
        (["homegrid", "--judge.prompt", "homegrid-preference"], "judge.prompt: got 'homegrid-preference'"),
        (["homegrid", "--batch", "--judge.kind", "decisions", "--judge.base-url", "http://127.0.0.1:1/v1"],
         "judge.kind: got 'decisions'"),
        (["homegrid-openai", "--judge.api-key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY is empty"),
        (["nowhere"], "checkpoint 'nowhere': no such folder"),
        (["homegrid", "--judge.kind", "chat", "--judge.base-url", "http://127.0.0.1:1/v1"], "nothing answers"),
        ([], "needs SOURCE"),
    ],
)  # fmt: skip
def test_what_can_not_be_done_is_said_before_anything_is_sampled(
    words: list[str], said: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["label", *words]) == 2
    assert said in capfd.readouterr().err
    assert list(here.iterdir()) == []


# ---------------------------------------------------------------------------------- stopped and killed


def test_ctrl_c_keeps_what_was_answered(
    here: Path, judge: BuiltinJudge, command: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    asks = start_judge(judge, here, latency_median_s=0.5)
    words = ["label", "homegrid", "--episodes", "20", *asks, "--feedback.concurrency"]
    process = command([*words, "1", "--json"])
    until(LABELS, "SELECT 1 FROM labels LIMIT 1 OFFSET 4", process)
    process.send_signal(signal.SIGINT)
    stopped = json.loads(process.communicate(timeout=120)[0])
    assert process.returncode == 0
    assert stopped["status"] == "interrupted"
    assert 5 <= stopped["verdicts"] < 20
    assert (stopped["reserved_usd"], stopped["verdicts"]) == (0.0, health(judge)["answered"])
    done = found([*words, "20"], capfd)
    assert (done["status"], done["verdicts"]) == ("done", 20)
    assert health(judge)["answered"] == 20


def test_killed_in_the_middle_of_a_batch(
    here: Path, judge: BuiltinJudge, command: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    """``kill -9`` while reserving, while it is out, and again; then the same command: nothing is paid for twice."""
    asks = start_judge(judge, here, batch={"latency_s": 2.0}, failures={"status_500": 0.1})
    words = ["label", "homegrid", "--episodes", "40", "--batch", "--judge.retries", "9", *asks, "--budget.usd", "50"]
    moments = [
        "SELECT 1 FROM batch_lines LIMIT 1 OFFSET 10",  # it is being written
        "SELECT 1 FROM batches WHERE state = 'sent'",
    ]
    for moment in moments:
        process = command(words)
        until(LABELS, moment, process)
        process.kill()
        process.wait()
    plain = [word for word in words if word != "--batch"]
    assert main(plain) == 2
    assert "--batch goes on with it" in capfd.readouterr().err
    done = found(words, capfd)
    assert (done["status"], done["verdicts"], done["in_batches"]) == ("done", 40, 0)
    billed = health(judge)
    assert billed["answered"] == 40  # nothing twice, though two processes were killed
    with LabelStore(LABELS) as store:
        account = store.account(Caps())
    assert account.reserved == Amount()
    assert account.spent.usd == pytest.approx(billed["usd"])
    print(f"2 kills: billed USD {billed['usd']:.4f}, settled and written off {account.spent.usd:.4f}, cap 50")


def test_called_off(here: Path, judge: BuiltinJudge, command: Start, capfd: pytest.CaptureFixture[str]) -> None:
    asks = start_judge(judge, here, batch={"latency_s": 60.0})
    words = ["label", "homegrid", "--episodes", "8", "--batch", *asks]
    process = command([*words, "--json"])
    until(LABELS, "SELECT 1 FROM batches WHERE state = 'sent'", process)
    process.send_signal(signal.SIGINT)
    out = json.loads(process.communicate(timeout=120)[0])
    assert (out["status"], out["in_batches"]) == ("in_flight", 8)
    off = found([*words, "--cancel"], capfd)
    answered = health(judge)["answered"]
    assert (off["status"], off["verdicts"], off["in_batches"], off["reserved_usd"]) == ("cancelled", answered, 0, 0.0)
    assert off["spend_usd"] == pytest.approx(health(judge)["usd"])


def test_the_line_of_the_view() -> None:
    now = Progress(10_000, 1_000, 500, 12, 3, 0, 0, 1.5, 0.25, 60.0)
    assert told(now, 5.0) == (
        "1,500 of 10,000 labelled (1,000 before, 12 abstained, 3 for nothing) | USD 1.5000 of 5.00, 0.2500 reserved | "
        "500 a minute, 17:00 left"
    )
    out = Progress(10, 0, 0, 0, 0, 8, 2, 0.0, 0.5, 3.0, "batch b is in progress")
    assert told(out, None) == (
        "0 of 10 labelled | USD 0.0000, 0.5000 reserved | 8 in batches, 2 answered there | batch b is in progress"
    )
