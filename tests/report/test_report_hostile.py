"""What a judge or a stranger's run says is shown as text: by the page, and by the terminal at the end of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_run import SUMMARY, write_labels, write_run

from rlaif_ray.cli.output import text_console
from rlaif_ray.cli.train import _show_end
from rlaif_ray.feedback.quoting import printable
from rlaif_ray.report.html import write_report

ATTACK = (
    "[/red] [link=http://judge.invalid]here[/link] :smile: \x1b[2J\x1b]0;owned\x07\u202eey\u202c "
    '"><script>alert(1)</script><img src=x onerror=alert(1)> {{ 7 * 7 }} =HYPERLINK("http://judge.invalid")'
)


def hostile_run(folder: Path, status: str) -> Path:
    judge = {"kind": "chat", "model": ATTACK, "profile": None, "as_if": False, "error": ATTACK}
    summary = {**SUMMARY, "status": status, "name": ATTACK, "judge": judge, "reward_model": {"reason": ATTACK}}
    return write_run(folder, iterations=8, summary=summary)


@pytest.mark.parametrize("status", ["no_feedback_learned", "done", "interrupted"])
def test_the_end_of_a_run_shows_hostile_text_as_text(
    status: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Markup that closes what was never opened ended a whole run with a stack; escapes reached the terminal."""
    run = hostile_run(tmp_path / "r", status)
    _show_end(run, text_console())
    out = capsys.readouterr().out
    assert out == printable(out)
    if status == "no_feedback_learned":
        assert "[/red] [link=http://judge.invalid]here[/link] :smile:" in " ".join(out.split())


def test_the_page_shows_hostile_text_as_text(tmp_path: Path) -> None:
    run = hostile_run(tmp_path / "r", "no_feedback_learned")
    write_labels(run, [ATTACK, ATTACK, ATTACK, ATTACK])
    text = write_report(run).read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<img src=x" not in text
    assert "&lt;script&gt;" in text
    assert "{{ 7 * 7 }}" in text
    assert not [c for c in "\x1b\x07\u202e" if c in text.partition("judged episodes")[2]]


def test_a_picture_that_leads_elsewhere_is_not_taken_into_the_page(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a file of the reader's own")
    run = write_run(tmp_path / "r", iterations=8)
    before = write_report(run).read_text().count("data:image/gif")
    (run / "media" / "before-1.gif").unlink()
    (run / "media" / "before-1.gif").symlink_to(secret)
    assert write_report(run).read_text().count("data:image/gif") == before - 1
