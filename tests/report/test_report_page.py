"""The report: right figures, everything escaped, nothing loaded from elsewhere, and never in need of all the parts."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from synthetic_run import ITERATIONS, STEPS_EACH, SUMMARY, row, write_labels, write_run

from rlaif_ray.cli import main
from rlaif_ray.config import Config, dump_config, load_config
from rlaif_ray.errors import ConfigError
from rlaif_ray.report import charts
from rlaif_ray.report.html import render_report, write_report
from rlaif_ray.report.live import LiveView, plain_line
from rlaif_ray.report.outcome import headline, outcome_rows, outcome_table, statements
from rlaif_ray.report.run import RunRecord, find_run, flatten


class Page(HTMLParser):
    """Collects text, what a page would load, and every tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "action"):
                self.loads.append(value or "")

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "made-up")


@pytest.fixture
def record(run: Path) -> RunRecord:
    return RunRecord.read(run)


# ------------------------------------------------------------------------------------------------ reading


def test_rows_are_read_flat_and_a_torn_last_line_is_left_out(run: Path) -> None:
    with open(run / "result.json", "a") as file:
        file.write('{"steps": 99, "task": {"epis')
    record = RunRecord.read(run)
    assert len(record.rows) == ITERATIONS
    assert record.rows[0]["task/episodes"] == 700
    assert record.column("steps")[-1] == ITERATIONS * STEPS_EACH
    assert np.isnan(record.column("no/such/key")).all()


def test_steps_taken_again_after_a_checkpoint_count_once(run: Path) -> None:
    """A run killed after 5 iterations that goes on from the checkpoint of the third."""
    lines = (run / "result.json").read_text().splitlines()
    again = [json.dumps(json.loads(line) | {"phase": "second time"}) for line in lines]
    (run / "result.json").write_text("\n".join(lines[:5] + again[3:]) + "\n")
    record = RunRecord.read(run)
    assert (np.diff(record.column("steps")) == STEPS_EACH).all()
    assert [row["phase"] == "second time" for row in record.rows] == [i >= 3 for i in range(ITERATIONS)]


def test_feedback_begins_where_the_phase_changes(record: RunRecord) -> None:
    # 22 iterations of 22,500 steps end at 495,000; the 23rd crosses 500,000 and is the first with feedback.
    assert record.feedback_from == 22 * STEPS_EACH


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a run's"):
        RunRecord.read(tmp_path)


def test_a_run_is_found_by_name_below_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "runs" / "quickstart", iterations=1)
    monkeypatch.chdir(tmp_path)
    assert find_run("quickstart") == Path("runs/quickstart")
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        find_run("quikstart")


def test_flatten() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": 2}, "e": 3}) == {"a/b/c": 1, "a/d": 2, "e": 3}


# ------------------------------------------------------------------------------------------------ outcome


def test_the_table_has_published_rows_first_and_unseen_starts_before_training_ones(record: RunRecord) -> None:
    rows = outcome_rows(record)
    assert [(r.source, r.cat_survived_pct, r.found_pct, r.mean_length) for r in rows[:3]] == [
        ("published", 37.6, 99.0, 11.5),
        ("published", 93.6, 89.9, 20.7),
        ("published", 96.9, 94.1, 17.2),
    ]
    own = [(r.policy, r.starts, round(r.cat_survived_pct, 1), r.labels, r.headline) for r in rows[3:]]
    assert own == [
        ("task reward only", "unseen starts", 40.1, 0, True),
        ("+ judge feedback", "unseen starts", 98.5, 485, True),
        ("task reward only", "training starts", 39.5, 0, False),
        ("+ judge feedback", "training starts", 99.0, 485, False),
    ]
    assert [r.steps for r in rows[3:5]] == [500_000, 2_700_000]


def test_the_headline_names_before_and_after_on_unseen_starts(record: RunRecord) -> None:
    said = headline(record)
    assert "98.5 %" in said
    assert "(40.1 % before feedback)" in said
    assert "99.1 %" in said


def test_no_feedback_learned_is_said_in_large_letters(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", summary={**SUMMARY, "status": "no_feedback_learned"})
    record = RunRecord.read(run)
    assert headline(record) == "NO FEEDBACK WAS LEARNED FROM: the reward model never passed its gate"
    none = RunRecord.read(write_run(tmp_path / "n", summary={**SUMMARY, "status": "no_feedback_learned", "labels": 0}))
    assert headline(none) == "NO FEEDBACK WAS LEARNED FROM: no question was answered"
    few = {**SUMMARY, "status": "no_feedback_learned", "labels": 12, "reward_model": {"version": 0, "heldout_n": 0}}
    said = headline(RunRecord.read(write_run(tmp_path / "f", summary=few)))
    assert "too few answers" in said
    assert "12 labels" in said
    assert "min_labels is 40" in said
    assert 'class="shout"' in render_report(record)


@pytest.mark.parametrize(
    ("late", "why"),
    [
        ("defer", "an episode's end is kept back for 16 iterations"),
        ("rm", "feedback.late: defer or wait keeps episodes for them"),
    ],
)
def test_verdicts_that_came_too_late_for_a_direct_run_are_why_it_learned_nothing(
    tmp_path: Path, late: str, why: str
) -> None:
    lateness = {"verdicts": 1985, "turned_away": 6200}
    run = write_run(tmp_path / "d", summary={**SUMMARY, "status": "no_feedback_learned", "lateness": lateness})
    direct = {"mix.source": "direct", "mix.credit": "terminal", "mix.unjudged": "task", "feedback.late": late}
    (run / "config.yaml").write_text(dump_config(load_config("homegrid", direct)))
    record = RunRecord.read(run)
    said = f"its 1,985 verdicts came after their episodes had been learned from; {why}"
    assert headline(record) == f"NO FEEDBACK WAS LEARNED FROM: {said}"
    assert "The judge did not keep up: 6,200 questions were not put" in " ".join(statements(record))


def test_statements_say_who_judged_and_that_prices_are_as_if(record: RunRecord) -> None:
    said = " ".join(statements(record))
    assert "built-in judge (profile gpt-4o-mini-2024)" in said
    assert "Prices are as-if" in said
    assert "held out of training" in said


def test_a_hybrid_run_that_used_no_verdict_directly_says_so(tmp_path: Path, record: RunRecord) -> None:
    assert "2.00 % were paid by a verdict itself and 94.0 %" in " ".join(statements(record))
    provenance = {"direct": 0.0, "distilled": 0.7, "abstained": 0.0, "task": 0.3}
    run = write_run(tmp_path / "r", summary={**SUMMARY, "provenance": provenance})
    assert "Effective direct share: 0." in " ".join(statements(RunRecord.read(run)))


def test_a_hosted_judge_is_named_and_its_prices_are_real(tmp_path: Path) -> None:
    judge = {"kind": "chat", "model": "some-model-2026-01-01", "profile": None, "as_if": False}
    run = write_run(tmp_path / "r", summary={**SUMMARY, "judge": judge})
    (run / "config.yaml").write_text(dump_config(load_config("homegrid-openai")))
    said = " ".join(statements(RunRecord.read(run)))
    assert "some-model-2026-01-01" in said
    assert "as-if" not in said


def test_the_terminal_table_shows_the_same_figures(record: RunRecord) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(outcome_table(record))
    text = console.export_text()
    assert "…" not in text
    for figure in ("37.6", "96.9", "40.1", "98.5", "12.1", "2.7", "feedback 2", "unseen"):
        assert figure in text


# ------------------------------------------------------------------------------------------------ the page


def test_the_page_is_self_contained(run: Path) -> None:
    path = write_report(run)
    assert path == run / "report.html"
    page = Page(path.read_text())
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert page.loads
    assert all(url.startswith(("data:image/", "#")) for url in page.loads)
    assert "url(http" not in path.read_text()
    assert sum(url.startswith("data:image/gif") for url in page.loads) == 4
    assert page.tags.count("svg") == 5
    assert not list(run.glob("*.part"))


def test_the_page_says_what_matters(record: RunRecord) -> None:
    text = Page(render_report(record)).text
    for words in ("Prices are as-if", "built-in judge", "98.5", "37.6", "Reward", "USD 0.970 of 5.00", "total_steps"):
        assert words.lower() in text.lower()


def test_text_from_outside_is_escaped(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", summary={**SUMMARY, "name": "<script>alert(1)</script>"})
    text = render_report(RunRecord.read(run))
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_judged_episodes_are_shown_with_frames_question_and_escaped_answer(run: Path) -> None:
    attack = "It goes east. <script>alert(1)</script> {{ 7 * 7 }}"
    write_labels(run, [attack] * 12)
    text = render_report(RunRecord.read(run))
    page = Page(text)
    assert "script" not in page.tags
    assert attack in page.text  # what was written is read, not run
    assert sum(url.startswith("data:image/png") for url in page.loads) == 8
    assert page.text.count("What happens:") == 7
    assert "refusal: it will not say" in page.text
    assert "{num_frames}" not in page.text
    assert "question and raw answer" in page.text


def test_label_statistics_come_from_the_store(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_labels(run, ["It goes east."] * 5)
    assert main(["labels", "stats", str(run), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["labels"] == 5
    assert figures["abstained"] == 1
    assert figures["spend_usd"] == pytest.approx(0.025)
    assert (figures["reserved_usd"], figures["cap_usd"], figures["replayed"]) == (0.0, 5.0, 0)


def test_a_run_that_asked_nobody_has_no_label_statistics(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["labels", "stats", str(run)]) == 1
    assert "asked no judge" in capsys.readouterr().err


def partial_runs(folder: Path) -> Iterator[tuple[str, Path]]:
    yield "no summary, as if killed", write_run(folder / "killed", summary=None)
    yield (
        "interrupted in the task phase",
        write_run(
            folder / "early",
            iterations=3,
            summary={"status": "interrupted", "name": "early", "evaluation": {}, "phases": []},
        ),
    )
    task_only = write_run(folder / "task", iterations=10, summary=None)
    (task_only / "config.yaml").write_text(dump_config(Config()))
    evaluation = {"train": {"episodes": 100, "found": 0.99, "cat_survived": 0.4, "mean_length": 10.0}}
    (task_only / "summary.json").write_text(
        json.dumps({"status": "done", "name": "task", "steps": 225_000, "evaluation": evaluation, "phases": [],
                    "labels": None, "spend_usd": None, "cap_usd": None, "judge": {"kind": "none"},
                    "reward_model": None})
    )  # fmt: skip
    yield "task only", task_only
    bare = folder / "bare"
    bare.mkdir()
    (bare / "config.yaml").write_text("run: {name: bare}\n")
    yield "config only", bare
    alien = folder / "alien"
    alien.mkdir()
    (alien / "config.yaml").write_text("a_key_of_another_version: 1\n")
    (alien / "result.json").write_text(json.dumps(row(3)) + "\n" + json.dumps([1, 2]) + "\n\n")
    (alien / "summary.json").write_text("{torn")
    (alien / "labels.sqlite").write_bytes(b"not a database")
    yield "another version's, with a damaged store", alien
    headless = folder / "headless"
    headless.mkdir()
    (headless / "result.json").write_text("")
    yield "an empty result.json", headless


def test_a_run_with_missing_parts_still_gets_its_page(tmp_path: Path) -> None:
    for what, run in partial_runs(tmp_path):
        text = Page(write_report(run).read_text()).text
        assert run.name in text, what
        assert not re.search(r"\bnan\b|None %|\bnull\b.*%", text.split("The whole configuration")[0]), what
        assert headline(RunRecord.read(run)), what


def test_a_task_only_run_claims_no_feedback(tmp_path: Path) -> None:
    run = dict(partial_runs(tmp_path))["task only"]
    text = Page(render_report(RunRecord.read(run))).text
    assert "No judge was asked" in text
    assert "built-in judge" not in text
    assert "99.0 % of episodes" in text


def test_the_command_prints_where_the_page_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")


# ------------------------------------------------------------------------------------------------ charts


def test_smoothing_leaves_nan_out_and_is_centred() -> None:
    values = np.array([np.nan, 1.0, np.nan, 4.0, np.nan, np.nan, np.nan])
    assert np.allclose(charts.smooth(values, over=3), [1.0, 1.0, 2.5, 4.0, 4.0, np.nan, np.nan], equal_nan=True)
    weighted = charts.smooth(values, over=3, weight=np.array([np.nan, 3.0, np.nan, 1.0, 9.0, 0.0, 0.0]))
    assert np.allclose(weighted, [1.0, 1.0, 1.75, 4.0, 4.0, np.nan, np.nan], equal_nan=True)


def test_versions_are_taken_when_first_seen(record: RunRecord) -> None:
    versions = charts.reward_model_versions(record)
    assert [v for v, _, _ in versions] == list(range(1, 24))
    assert versions[0][1] == pytest.approx(0.8 + 0.004 * 4)  # version 1 is first seen in iteration 30


# ------------------------------------------------------------------------------------------------ live view


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def shown(view: LiveView) -> str:
    console = Console(width=140, force_terminal=False)
    with console.capture() as capture:
        console.print(view.render())
    return capture.get()


def test_the_view_shows_every_figure_and_the_time_left() -> None:
    clock = Clock()
    view = LiveView("made-up", Console(file=io.StringIO(), force_terminal=False), clock, as_if=True)
    view.update(row(59))
    clock.now = 30.0
    view.update(row(69))  # ten iterations in 30 s: 50 more take 150 s
    text = shown(view)
    for words in (
        "1,575,000 of 2,700,000 steps", "58 %", "2:30 left", "truth, audit only", "fruit found 99.7 %",
        "labels 235 (265 left)", "USD 0.470 of 5.00 as-if", "version 10", "97.2 % of 47 held-out labels", "gate open",
        "direct 2.0 %", "distilled 94.0 %", "task only 3.9 %",
    ):  # fmt: skip
        assert words in text
    clock.now = 50.0
    assert "2:10 left" in shown(view)  # it counts down between rows


def test_a_row_without_figures_shows_dashes() -> None:
    view = LiveView("empty", Console(file=io.StringIO(), force_terminal=False), Clock())
    view.update({})
    assert "nan" not in shown(view)
    assert "nan" not in plain_line({"steps": math.nan, "feedback/labels": 0}, math.nan)


def test_pairs_that_are_unused_are_told_while_a_run_goes_on() -> None:
    row = {"feedback/labels": 90, "rm/version": 2, "rm/heldout_accuracy": 0.9, "rm/heldout_n": 20, "rm/gate_open": 1.0}
    assert "90.0 % of 20 held-out labels, 12 unused, gate open" in plain_line(row | {"rm/unused_n": 12.0}, 1.0)
    assert "unused" not in plain_line(row | {"rm/unused_n": 0.0}, 1.0)


def test_outside_a_terminal_there_is_one_plain_line_each_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    view = LiveView("made-up", Console(force_terminal=False, width=80), clock)
    with view:
        for i in range(25):  # a row a second: lines at 0, 10 and 20 s
            clock.now = float(i)
            view.update(row(i + 30))
        view.update(row(ITERATIONS - 1))  # and one at the end
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("697,500/2,700,000 steps; feedback phase;")
    assert "\x1b" not in "".join(lines)


def test_the_last_known_figure_stays_in_view() -> None:
    view = LiveView("made-up", Console(file=io.StringIO(), force_terminal=False), Clock())
    view.update(row(40))
    view.update({**row(41), "rm": {"version": 3, "heldout_n": 18}, "truth": {"found": math.nan}})
    assert "85.6 % of 18 held-out labels" in shown(view)
    assert "fruit found 99.7 %" in shown(view)
