"""The tables of the label store, and how those of an earlier version become those of this one.

``MIGRATIONS[v]`` turns version v into v + 1. A new file is made as version 1 and goes through all of them: what a
migrated file looks like is what a new one looks like.
"""

from __future__ import annotations

__all__ = ["MIGRATIONS", "SCHEMA", "SCHEMA_VERSION"]

SCHEMA_VERSION = 5

SCHEMA = """
CREATE TABLE runs (
    run_id TEXT PRIMARY KEY, opened_at REAL NOT NULL, cap_usd REAL, cap_labels INTEGER, cap_tokens INTEGER);
CREATE TABLE episodes (
    key TEXT PRIMARY KEY, blob BLOB NOT NULL);
CREATE TABLE questions (
    key TEXT PRIMARY KEY, kind TEXT NOT NULL, prompt_name TEXT NOT NULL, prompt_hash TEXT NOT NULL,
    polarity TEXT NOT NULL, system_text TEXT NOT NULL, user_text TEXT NOT NULL, judge TEXT NOT NULL,
    judge_settings TEXT NOT NULL, principle TEXT NOT NULL, unit_order TEXT NOT NULL, replicate INTEGER NOT NULL,
    unit_keys TEXT NOT NULL);
CREATE TABLE claims (
    question_key TEXT PRIMARY KEY, owner TEXT NOT NULL, lease_until REAL NOT NULL);
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY, question_key TEXT NOT NULL, run_id TEXT NOT NULL, owner TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'settled', 'written_off')),
    worst_usd REAL NOT NULL, worst_labels INTEGER NOT NULL, worst_tokens INTEGER NOT NULL,
    used_usd REAL NOT NULL DEFAULT 0, used_labels INTEGER NOT NULL DEFAULT 0, used_tokens INTEGER NOT NULL DEFAULT 0,
    reserved_at REAL NOT NULL, lease_until REAL NOT NULL, closed_at REAL, detail TEXT NOT NULL DEFAULT '');
CREATE INDEX attempts_open ON attempts (owner) WHERE state = 'open';
CREATE INDEX attempts_run ON attempts (run_id);
CREATE TABLE answers (
    id INTEGER PRIMARY KEY, question_key TEXT NOT NULL, attempt_id INTEGER UNIQUE, answered_at REAL NOT NULL,
    kind TEXT, value REAL, approved INTEGER, rating INTEGER, preference TEXT, probability REAL,
    description TEXT NOT NULL, reasoning TEXT NOT NULL, reason TEXT, detail TEXT NOT NULL, text TEXT NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, cost_usd REAL NOT NULL, latency_s REAL NOT NULL,
    attempts INTEGER NOT NULL);
CREATE INDEX answers_question ON answers (question_key, id);
CREATE TABLE labels (
    label_id INTEGER PRIMARY KEY, answer_id INTEGER NOT NULL, question_key TEXT NOT NULL, episode_key TEXT NOT NULL,
    episode_id INTEGER NOT NULL, run_id TEXT NOT NULL, policy_version INTEGER NOT NULL, step INTEGER NOT NULL,
    inclusion_probability REAL NOT NULL, replayed INTEGER NOT NULL);
CREATE INDEX labels_run ON labels (run_id, label_id);
CREATE TABLE account (
    id INTEGER PRIMARY KEY CHECK (id = 1), spent_usd REAL NOT NULL, spent_labels INTEGER NOT NULL,
    spent_tokens INTEGER NOT NULL);
INSERT INTO account VALUES (1, 0, 0, 0);
"""

# Version 2: pictures once by content hash; spending of each run; a judge's traffic for all who share the file; numbers
# of calls, so that one repeated because its reply was lost does nothing twice; reward-model versions.
_FROM_1 = """
CREATE TABLE frames (
    hash TEXT PRIMARY KEY, png BLOB NOT NULL, added INTEGER NOT NULL);
CREATE INDEX frames_added ON frames (added);
CREATE TABLE kept (id INTEGER PRIMARY KEY CHECK (id = 1), bytes INTEGER NOT NULL);
INSERT INTO kept VALUES (1, 0);
ALTER TABLE questions ADD COLUMN frame_hashes TEXT NOT NULL DEFAULT '[]';
ALTER TABLE claims ADD COLUMN request TEXT NOT NULL DEFAULT '';
ALTER TABLE attempts ADD COLUMN judge TEXT NOT NULL DEFAULT '';
ALTER TABLE attempts ADD COLUMN request TEXT;
UPDATE attempts SET judge = coalesce((SELECT judge FROM questions WHERE key = attempts.question_key), '');
CREATE INDEX attempts_judge_open ON attempts (judge) WHERE state = 'open';
CREATE UNIQUE INDEX attempts_request ON attempts (request) WHERE request IS NOT NULL;
ALTER TABLE labels ADD COLUMN request TEXT;
ALTER TABLE labels ADD COLUMN reward_model_version INTEGER NOT NULL DEFAULT 0;
CREATE UNIQUE INDEX labels_request ON labels (request) WHERE request IS NOT NULL;
CREATE INDEX labels_question ON labels (question_key);
CREATE INDEX labels_answer ON labels (answer_id);
CREATE INDEX labels_episode ON labels (episode_key);
ALTER TABLE runs ADD COLUMN run_cap_usd REAL;
ALTER TABLE runs ADD COLUMN run_cap_labels INTEGER;
ALTER TABLE runs ADD COLUMN run_cap_tokens INTEGER;
CREATE TABLE run_accounts (
    run_id TEXT PRIMARY KEY, spent_usd REAL NOT NULL, spent_labels INTEGER NOT NULL, spent_tokens INTEGER NOT NULL);
INSERT INTO run_accounts
    SELECT run_id, sum(used_usd), sum(used_labels), sum(used_tokens) FROM attempts GROUP BY run_id;
CREATE TABLE traffic (
    judge TEXT PRIMARY KEY, state TEXT NOT NULL);
"""

# Version 3: data sets that are labelled apart from training, the batches that are out for answers, and an index of what
# a run took from the store.
_FROM_2 = """
CREATE TABLE samples (
    run_id TEXT NOT NULL, episode_id INTEGER NOT NULL, episode_key TEXT NOT NULL, policy_version INTEGER NOT NULL,
    PRIMARY KEY (run_id, episode_id)) WITHOUT ROWID;
CREATE INDEX samples_episode ON samples (episode_key);
CREATE TABLE batches (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, run_id TEXT NOT NULL, driver TEXT NOT NULL,
    lease_until REAL NOT NULL, state TEXT NOT NULL CHECK (state IN ('preparing', 'sending', 'sent', 'closed')),
    file_id TEXT, remote_id TEXT, begun_at REAL NOT NULL, closed_at REAL, detail TEXT NOT NULL DEFAULT '');
CREATE INDEX batches_run ON batches (run_id, state);
CREATE TABLE batch_lines (
    attempt_id INTEGER PRIMARY KEY, batch_id INTEGER NOT NULL, question_key TEXT NOT NULL, run_id TEXT NOT NULL,
    episode_id INTEGER NOT NULL);
CREATE INDEX batch_lines_batch ON batch_lines (batch_id);
CREATE INDEX batch_lines_episode ON batch_lines (run_id, episode_id);
CREATE INDEX labels_taken ON labels (run_id, answer_id) WHERE replayed = 1;
"""

# Version 4: the second of two episodes that a preference is between; answers put together of several (a panel's, a
# cascade's, of two orders): the whole's label stands beside those of its parts.
_FROM_3 = """
ALTER TABLE labels ADD COLUMN second_key TEXT;
ALTER TABLE labels ADD COLUMN second_id INTEGER;
ALTER TABLE labels ADD COLUMN second_version INTEGER;
ALTER TABLE labels ADD COLUMN part INTEGER NOT NULL DEFAULT 0;
ALTER TABLE answers ADD COLUMN made_of TEXT NOT NULL DEFAULT '[]';
ALTER TABLE answers ADD COLUMN inconsistent INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempts ADD COLUMN whole INTEGER NOT NULL DEFAULT 0;
CREATE INDEX labels_second ON labels (second_key) WHERE second_key IS NOT NULL;
"""

# Version 5: how the episode of a label was chosen; up to here all of them had the same chance.
_FROM_4 = """
ALTER TABLE labels ADD COLUMN draw TEXT NOT NULL DEFAULT 'audit';
"""

MIGRATIONS = {1: _FROM_1, 2: _FROM_2, 3: _FROM_3, 4: _FROM_4}
