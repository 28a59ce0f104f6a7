"""Labels out as a data set others can load, and in again."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from feedback_fakes import TinyRenderer, asked_about, tiny_config, tiny_episode
from PIL import Image

from rlaif_ray.errors import StoreError
from rlaif_ray.feedback.budget import Amount, Caps
from rlaif_ray.feedback.database import owner_id
from rlaif_ray.feedback.exchange import Imported, export_jsonl, export_parquet, import_jsonl, import_parquet
from rlaif_ray.feedback.judge import identity_of
from rlaif_ray.feedback.question import Asked, Questionnaire
from rlaif_ray.feedback.records import record_of
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import Abstention, Label, Usage, Verdict, episode_key

JUDGE = identity_of(tiny_config("http://127.0.0.1:1/v1").judge)
ME = owner_id()
YES = Verdict("approval", 1.0, "{}", Usage(300, 100, 0.04, 1.5), approved=True, description="d", probability=0.9)
NO = Abstention("refusal", "no", Usage(300, 10, 0.04, 1.0), "I can't")


def sheet(frames: Sequence[bytes]) -> bytes:
    pictures = [Image.open(io.BytesIO(frame)) for frame in frames]
    whole = Image.new("L", (3, 2 * len(pictures)))
    for i, picture in enumerate(pictures):
        whole.paste(picture, (0, 2 * i))
    buffer = io.BytesIO()
    whole.save(buffer, "PNG")
    return buffer.getvalue()


def fill(store: LabelStore) -> list[Label]:
    for number in range(1, 5):
        row = record_of(asked_about(number, JUDGE), keep_frames=number == 1, reward_model_version=number)
        store.claim(row, ME, keep_frames_mb=1)
        outcome = NO if number == 3 else YES
        store.answer(row, outcome, store.reserve(row, Amount(), Caps(), ME), Amount(0.04, 1, 400))
    store.claim(replace(record_of(asked_about(2, JUDGE)), run_id="another", draw="targeted"), ME)
    return store.labels()


def exported(store: LabelStore, path: Path, run: str | None = None) -> Path:
    export_parquet(store, path, renderer=TinyRenderer(), sheet=sheet, run=run)
    return path


def test_the_file_says_what_its_columns_are(store: LabelStore, tmp_path: Path) -> None:
    fill(store)
    table = pyarrow.parquet.read_table(exported(store, tmp_path / "out" / "labels.parquet"))
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == table.schema.names
    assert features["image"] == {"_type": "Image"}
    assert features["frames"] == {"feature": {"_type": "Image"}, "_type": "List"}
    arrow = {"string": "string", "int64": "int64", "float64": "double", "bool": "bool", "binary": "binary"}
    for field in table.schema:
        if features[field.name]["_type"] == "Value":
            assert arrow[features[field.name]["dtype"]] == str(field.type)
    rows = table.to_pylist()
    assert [(row["episode_id"], row["approved"], row["reason"], row["replayed"], row["run_id"]) for row in rows] == [
        (1, True, None, False, "run"), (2, True, None, False, "run"), (3, None, "refusal", False, "run"),
        (4, True, None, False, "run"), (2, True, None, True, "another"),
    ]  # fmt: skip
    assert [row["reward_model_version"] for row in rows] == [1, 2, 3, 4, 0]
    assert (rows[0]["probability"], rows[0]["cost_usd"], rows[0]["prompt_name"]) == (0.9, 0.04, "homegrid-align")
    for row in rows:
        assert Image.open(io.BytesIO(row["image"]["bytes"])).size == (3, 8)
        assert [Image.open(io.BytesIO(frame["bytes"])).size for frame in row["frames"]] == [(3, 2)] * 4
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "labels.parquet"]


def test_a_data_set_comes_back_as_it_was_and_is_replayed(store: LabelStore, tmp_path: Path) -> None:
    labels = fill(store)
    path = exported(store, tmp_path / "labels.parquet")
    with LabelStore(tmp_path / "other.sqlite") as other:
        assert import_parquet(other, path) == Imported(labels=5, answers=4, known=0)
        assert other.labels() == labels
        assert [episode_key(other.episode_of(one)) for one in labels] == [
            episode_key(store.episode_of(one)) for one in labels
        ]
        assert import_parquet(other, path) == Imported(labels=0, answers=0, known=5)
        assert other.account(Caps()).spent == Amount()  # others paid for it
        assert [one.draw for one in other.labels()][-1] == "targeted"
        again = pyarrow.parquet.read_table(exported(other, tmp_path / "again.parquet", run="run"))
        assert again.equals(pyarrow.parquet.read_table(exported(store, tmp_path / "again2.parquet", run="run")))
        replayed = other.claim(record_of(asked_about(4, JUDGE)), ME, "only")
        assert isinstance(replayed, Label)
        assert replayed.outcome == YES


def test_without_a_renderer_there_are_the_kept_pictures(store: LabelStore, tmp_path: Path) -> None:
    fill(store)
    export_parquet(store, tmp_path / "labels.parquet", renderer=None, sheet=sheet)
    rows = pyarrow.parquet.read_table(tmp_path / "labels.parquet").to_pylist()
    assert [len(row["frames"]) for row in rows] == [4, 0, 0, 0, 0]
    assert [row["image"] is None for row in rows] == [False, True, True, True, True]


def test_what_is_wrong_with_a_file_is_said_and_nothing_comes_in(store: LabelStore, tmp_path: Path) -> None:
    fill(store)
    table = pyarrow.parquet.read_table(exported(store, tmp_path / "labels.parquet"))
    bad = tmp_path / "bad.parquet"

    def complaint() -> str:
        with LabelStore(tmp_path / "other.sqlite") as other:
            with pytest.raises(StoreError) as error:
                import_parquet(other, bad)
            assert other.labels() == []
            assert "\n" not in str(error.value)
        return str(error.value)

    bad.write_bytes(b"no Parquet at all")
    assert "can't be read as Parquet" in complaint()
    pyarrow.parquet.write_table(table.drop_columns(["value"]), bad)
    assert "it lacks value" in complaint()
    rows = table.to_pylist()
    for column, value, says in (
        ("value", 7.0, "expected within [0, 1]"),
        ("inclusion_probability", 0.0, "inclusion_probability"),
        ("draw", "lucky", "draw: got 'lucky', expected one of audit, targeted, known"),
        ("episode_key", "other", "another than it says"),
        ("episode", b"junk", "can't be read back"),
        ("frame_hashes", '["../../etc/passwd"]', "expected a list of 32 hex digits each"),
        ("frame_hashes", '{"a": 1}', "expected a list of 32 hex digits each"),
        ("frame_hashes", "nonsense", "Expecting value"),
        ("made_of", '["x"]', "expected a list of labels"),
        ("second_id", 3, "says who its second episode is in part only"),
    ):
        changed = [*rows[:3], rows[3] | {column: value}, rows[4]]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(changed, schema=table.schema), bad)
        assert says in complaint()
    with pytest.raises(StoreError, match=r"Not a directory|File exists"):
        export_parquet(store, bad / "x.parquet", renderer=None, sheet=sheet)


def preference(store: LabelStore, number: int) -> Label:
    """Two orders that disagree, and the tie that they come to."""
    config = tiny_config("http://127.0.0.1:1/v1", judge__prompt="homegrid-preference").judge
    questions = Questionnaire.of(config, TinyRenderer(), JUDGE)
    first, second = tiny_episode(number), replace(tiny_episode(number + 1), policy_version=9)
    parts = []
    for order, preferred, value in (("first", "first", 1.0), ("swapped", "second", 0.0)):
        asked = Asked(questions.between(first, second, order), first, "run", second=second)  # type: ignore[arg-type]
        row = replace(record_of(asked), part=True)
        store.claim(row, ME)
        said = Verdict("preference", value, f"text {order}", Usage(10, 5, 0.01, 1.0), preference=preferred)  # type: ignore[arg-type]
        parts.append(store.answer(row, said, store.reserve(row, Amount(0.1, 1, 100), Caps(), ME), Amount(0.01, 1, 15)))
    whole = record_of(Asked(questions.between(first, second, "both"), first, "run", second=second))
    store.claim(whole, ME)
    made = replace(whole, made_of=json.dumps([one.label_id for one in parts]), inconsistent=True)
    return store.answer(made, Verdict("preference", 0.5, "t", Usage(attempts=0), preference="tie"), None, Amount())


def test_pairs_come_back_with_both_episodes_and_their_parts(store: LabelStore, tmp_path: Path) -> None:
    answered_first = fill(store)
    label = preference(store, 20)
    assert (store.stats().both_orders, store.stats().inconsistent) == (1, 1)
    path = exported(store, tmp_path / "labels.parquet")
    rows = pyarrow.parquet.read_table(path).to_pylist()
    assert [(row["part"], row["second_id"], len(row["frames"])) for row in rows[-3:]] == [
        (True, 21, 8), (True, 21, 8), (False, 21, 8),
    ]  # fmt: skip
    with LabelStore(tmp_path / "other.sqlite") as other:
        preference(other, 40)  # so that labels have other numbers there
        assert import_parquet(other, path) == Imported(labels=8, answers=7, known=0)
        assert import_parquet(other, path).known == 8
        back = other.labels()[-1]
        first, second = other.units_of(back)  # type: ignore[misc]
        assert (first.episode_id, second.episode_id, second.policy_version) == (20, 21, 9)
        assert len(other.labels()) == len(answered_first) + 2
        with other.reading() as db:
            made_of = db.execute(
                "SELECT a.made_of FROM labels l JOIN answers a ON a.id = l.answer_id WHERE l.label_id = ?",
                (back.label_id,),
            ).fetchone()["made_of"]
        texts = {one.label_id: one.outcome.text for one in other.labels(parts=True)}
        assert [texts[part] for part in json.loads(made_of)] == ["text first", "text swapped"]
        assert (other.stats().both_orders, other.stats().inconsistent) == (2, 2)
        assert label.outcome == back.outcome


def test_a_file_of_an_earlier_version_comes_in(store: LabelStore, tmp_path: Path) -> None:
    labels = fill(store)
    table = pyarrow.parquet.read_table(exported(store, tmp_path / "labels.parquet"))
    new = ["second_key", "second_id", "second_version", "part", "made_of", "inconsistent", "second_episode", "draw"]
    pyarrow.parquet.write_table(table.drop_columns(new), tmp_path / "old.parquet")
    with LabelStore(tmp_path / "other.sqlite") as other:
        assert import_parquet(other, tmp_path / "old.parquet") == Imported(labels=5, answers=4, known=0)
        assert other.labels() == [replace(one, draw="audit") for one in labels]  # all had the same chance then


# ------------------------------------------------------------------------------------------- JSON lines


def test_json_lines_go_out_and_come_back_as_parquet_does(store: LabelStore, tmp_path: Path) -> None:
    labels = fill(store)
    lines = tmp_path / "out" / "labels.jsonl"
    assert export_jsonl(store, lines) == len(store.labels())
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert rows[0]["probability"] == 0.9
    assert rows[2]["reason"] == "refusal"
    assert not list(lines.parent.glob("*.part"))
    with LabelStore(tmp_path / "a.sqlite") as of_lines, LabelStore(tmp_path / "b.sqlite") as of_parquet:
        found = import_jsonl(of_lines, lines)
        assert found == import_parquet(of_parquet, exported(store, tmp_path / "labels.parquet"))
        assert of_lines.labels() == of_parquet.labels()
        assert episode_key(of_lines.episode_of(of_lines.labels()[0])) == episode_key(store.episode_of(labels[0]))
        assert import_jsonl(of_lines, lines).labels == 0  # known


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda row: "not json", "Expecting value"),
        (lambda row: "[1, 2]", "no attribute"),
        (lambda row: json.dumps({"label_id": 1}), "it lacks"),
        (lambda row: json.dumps(row | {"episode_id": "7"}), "episode_id: got '7', expected int64"),
        (lambda row: json.dumps(row | {"step": 2**70}), "expected int64"),
        (lambda row: json.dumps(row | {"cost_usd": float("nan")}), "NaN is no JSON"),
        (lambda row: json.dumps(row | {"value": 7.0}), "verdict value: got 7"),
        (lambda row: json.dumps(row | {"text": "\ud800"}), "surrogates not allowed"),
        (lambda row: json.dumps(row | {"episode": "????"}), "line 2"),
        (lambda row: json.dumps(row | {"episode": ""}), "can't be read back"),
    ],
)
def test_a_spoiled_line_brings_nothing_in(store: LabelStore, tmp_path: Path, spoil, says: str) -> None:  # type: ignore[no-untyped-def]
    fill(store)
    lines = tmp_path / "labels.jsonl"
    export_jsonl(store, lines)
    written = lines.read_text().splitlines()
    lines.write_text("\n".join([written[0], spoil(json.loads(written[1])), *written[2:]]) + "\n")
    with LabelStore(tmp_path / "other.sqlite") as other:
        with pytest.raises(StoreError, match=says):
            import_jsonl(other, lines)
        assert other.labels() == []
