"""The built-in judge: an OpenAI-compatible server on loopback that reads the pictures it is sent.

It is a judge, not a stub: it sees only the request, finds out what happened by reading pixels (with a reader handed to
it at launch), obeys the wording of the question, and answers with a profile's errors, latency and as-if price.

::

    python -m rlaif_ray.feedback.builtin --profile gpt-4o-mini-2024 --reader package.module:Reader --port 0
"""
