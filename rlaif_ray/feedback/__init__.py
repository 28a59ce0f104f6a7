"""Ask a judge, pay for it, keep the answer.

The flow, one module a noun::

    select ► pool ► question ► budget ► judge ► store ► labels

``select`` picks episodes, ``pool`` (Ray actors, off the rollout's path) draws them into a ``question``, ``ask``
reserves the worst case of each attempt in the ``budget``, puts it to the ``judge`` and settles what was used; the
``store`` has the answer on disk before anybody uses it. A ``jury`` puts one question to several judges, or in both
orders of two episodes, each part of it by the same path. Only ``pool`` and ``actors`` need Ray: ``ask.ask_all`` is the
same path in one process, ``offline`` and ``batch`` label whole data sets by it, and ``alone`` judges pictures of any
other program. Each folder of ``pictures/`` is one run here, and a second start of the script costs nothing:

```python
from pathlib import Path
from rlaif_ray import LabelStore, Unit, ask_about, load_config

server = {"judge.base_url": "http://127.0.0.1:8000/v1", "judge.model": "gpt-4o-mini-2024"}
config = load_config("homegrid-local", server | {"budget.usd": 0.50, "budget.labels": 100})
folders = sorted(Path("pictures").iterdir())
units = [Unit(folder.name, tuple(png.read_bytes() for png in sorted(folder.glob("*.png")))) for folder in folders]
with LabelStore("labels.sqlite") as store:
    for unit, label in zip(units, ask_about(units, config, store)):
        print(unit.key, "no room in the budget" if label is None else label.outcome)
```
"""
