"""Labels bought before a run, by ``rlaif-ray label`` or by another run, for its reward model to learn from."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from rlaif_ray.config import load_config
from rlaif_ray.errors import ConfigError, StoreError
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import Judged, Label, QuestionKind, Units, Verdict

__all__ = ["first_in", "judged_in", "kinds_in", "labels_in", "store_of"]


class _Knows(Protocol):
    """A label store, or its actor's handle."""

    def units_of(self, label: Label) -> Units: ...


def judged_in(store: _Knows, labels: Iterable[Label]) -> list[Judged]:
    """The verdicts among these labels of the store with what they are about. Raises StoreError."""
    return [Judged(store.units_of(one), one.value, one.draw) for one in labels if one.value is not None]


def store_of(where: Path) -> Path:
    """The label store that ``where`` is, or that the run or the labelled data set in the folder ``where`` has.

    Raises ConfigError: there is none.
    """
    found = where
    if where.is_dir():
        config = where / "config.yaml"
        named = load_config(config).feedback.store if config.is_file() else ""
        found = Path(named) if named else where / "labels.sqlite"
    if not found.is_file():
        raise ConfigError(
            f"reward_model.labels: got {str(where)!r}, where there is no label store; expected a labels.sqlite, or the "
            "folder of a run or of labels made by `rlaif-ray label`"
        )
    return found


def labels_in(where: Path) -> list[Judged]:
    """Every verdict in the store with what it is about, oldest first; abstentions are none.

    Raises ConfigError: no store, no verdict in it, or it can't be read.
    """
    with _verdicts(where) as (store, found):
        return judged_in(store, found)


def first_in(where: Path) -> Units:
    """What the oldest verdict is about: a look beforehand, for which ten thousand episodes need not be unpacked.

    Raises ConfigError: as ``labels_in`` does.
    """
    with _verdicts(where) as (store, found):
        return store.units_of(found[0])


def kinds_in(where: Path) -> Counter[QuestionKind]:
    """How many verdicts of each kind there are, without a look at what they are about.

    Raises ConfigError: as ``labels_in`` does.
    """
    with _verdicts(where) as (_, found):
        return Counter(one.outcome.kind for one in found if isinstance(one.outcome, Verdict))


@contextlib.contextmanager
def _verdicts(where: Path) -> Iterator[tuple[LabelStore, list[Label]]]:
    path = store_of(where)
    try:
        with LabelStore(path, readonly=True) as store:
            found = [one for one in store.labels() if one.value is not None]
            if not found:
                raise ConfigError(
                    f"reward_model.labels: got {str(where)!r}, in which there is no verdict; expected labels"
                )
            yield store, found
    except StoreError as error:
        raise ConfigError(f"reward_model.labels: got {str(where)!r}, which can't be used: {error}") from None
