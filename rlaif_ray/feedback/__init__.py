"""Ask a judge, pay for it, keep the answer.

The flow, one module a noun::

    select ► pool ► question ► budget ► judge ► store ► labels

``select`` picks episodes, ``pool`` (Ray actors, off the rollout's path) draws them into a ``question``, ``ask``
reserves the worst case of each attempt in the ``budget``, puts it to the ``judge`` and settles what was used; the
``store`` has the answer on disk before anybody uses it. Only ``pool`` and ``actors`` need Ray: ``ask.ask_all`` is the
same path in one process.
"""
