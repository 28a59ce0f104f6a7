"""What a report says of the Goodhart watch: what it saw, what it couldn't have seen, what was done."""

import json
import math

import pytest
from synthetic_run import SUMMARY, write_run

from rlaif_ray.report.charts import watch_chart
from rlaif_ray.report.html import render_report
from rlaif_ray.report.outcome import headline, statements
from rlaif_ray.report.run import RunRecord

ALARM = {"step": 2_000_000, "since": 1_500_000, "audited": 40, "belief": 0.93, "verdict": 0.45,
         "belief_before": 0.9, "verdict_before": None, "evidence": 1_200.0}  # fmt: skip


def record(folder, watch, **summary):
    path = write_run(folder, summary=SUMMARY | ({"watch": watch} if watch else {}) | summary)
    lines = [json.loads(line) for line in (path / "result.json").read_text().splitlines()]
    for i, row in enumerate(lines):
        row["watch"] = {"audited": i, "evidence": 1.1**i, "belief": 0.9, "verdict": 0.9 if i else None, "alarms": 0}
    (path / "result.json").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return RunRecord.read(path)


def said(one):
    return [text for text in statements(one) if "watch" in text.lower() or "went back" in text]


@pytest.mark.parametrize(
    ("watch", "want"),
    [
        ({"audited": 400.0, "rollbacks": 0, "raised": []}, ["no alarm in 400 episodes asked about at random. It can"]),
        ({"audited": 12.0, "rollbacks": 0, "raised": []}, ["so few would have shown a wide gap only"]),
        ({"audited": 0.0, "rollbacks": 0, "raised": []}, ["had no episode to compare"]),
        (
            {"audited": 90.0, "rollbacks": 1, "raised": [ALARM]},
            ["ALARM at step 2,000,000: from step 1,500,000 on the reward model promised 93.0 % and the judge approved "
             "45.0 % of 40", "went back to an earlier checkpoint (1 of 2 times at most)"],
        ),
        (None, []),
    ],
)  # fmt: skip
def test_statements(watch, want, tmp_path):
    found = said(record(tmp_path / "run", watch))
    assert len(found) == len(want)
    for text, part in zip(found, want, strict=True):
        assert part in text


def test_a_stopped_run_says_so_first_and_its_page_has_the_chart(tmp_path):
    one = record(tmp_path / "run", {"audited": 90.0, "rollbacks": 0, "raised": [ALARM]}, status="stopped_by_watch")
    assert headline(one).startswith("STOPPED: the reward model was being gamed")
    page = render_report(one)
    assert "what the reward model promised" in page.lower()
    assert "truth, audit only" in (watch_chart(one) or "")


def test_a_run_without_a_watch_has_no_chart(tmp_path):
    assert watch_chart(RunRecord.read(write_run(tmp_path / "older"))) is None
    assert math.isnan(RunRecord.read(write_run(tmp_path / "older")).column("watch/belief")[0])
