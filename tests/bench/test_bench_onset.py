"""Where a rollback is led to on made-up verdicts: what is counted, and that a seed gives the same again."""

import onset
import pytest


def test_a_gap_opens_where_it_is_said_to():
    at_once, slow = onset.Case("", 0.5), onset.Case("", 0.5, over=100)
    assert [at_once.at(i) for i in (0, 79, 80, 200)] == [0.0, 0.0, 0.5, 0.5]
    assert at_once.change == 80
    assert slow.at(99) == pytest.approx(0.1)
    assert slow.change == 100
    assert onset.Case("", 0.3, before=0.05).at(79) == 0.05


def test_a_run_is_led_back_to_before_the_gap_and_a_seed_gives_the_same_again():
    case = onset.Case("", 0.8)
    led = onset.led_back(case, 10, seed=3)
    assert led == onset.led_back(case, 10, seed=3)
    assert 0 < led.target <= led.since < case.change <= led.alarm - onset.LATE
    assert led.kept <= onset.KEEP + 3


def test_what_is_not_seen_is_not_counted(monkeypatch):
    monkeypatch.setattr(onset, "MOST", onset.LATE)  # the first verdict on it has yet to come
    assert onset.led_back(onset.Case("", 0.8), 10, seed=0) is None
    assert "no alarm" in onset.row(onset.Case("", 0.8), 10, range(2))


def test_a_gap_that_is_wide_raises_an_alarm_and_none_raises_none():
    assert onset.cries_wolf(0.5, 200, 0)
    assert not onset.cries_wolf(0.0, 200, 0)
