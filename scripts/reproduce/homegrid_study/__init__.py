"""The Homegrid study: plan, run in shards, measure, report.

======== ===============================================================
module   says
======== ===============================================================
arms     which steps there are, in their order: files of tune_configs/study
hours    how long each takes, and which fit into the machine-hours
shards   run the next unfinished steps as processes of their own
after    the process that follows a step's own: measure, write down
measure  what came of a run, as one small JSON file
settings what a step was made with: none of other settings counts
rewards  reward models against the truth, and against the judge's verdicts
stored   the JSON files, read back as a sweep's record
page     docs/STUDY.md; figures its charts
======== ===============================================================
"""
