-- A store as version 1 of the tables made it, before they had queues and packs: one job has ended, one was cut off.
CREATE TABLE minimax_code_store (version INTEGER NOT NULL);
CREATE TABLE jobs (
    id TEXT NOT NULL PRIMARY KEY,
    created_at DOUBLE PRECISION NOT NULL,
    spec TEXT NOT NULL,
    wish TEXT NOT NULL,
    outcome TEXT,
    owner TEXT,
    token BIGINT NOT NULL,
    lease_until DOUBLE PRECISION NOT NULL,
    seq BIGINT NOT NULL,
    hash TEXT NOT NULL,
    worked_s DOUBLE PRECISION NOT NULL,
    told BIGINT NOT NULL
);
CREATE TABLE events (
    job TEXT NOT NULL REFERENCES jobs (id),
    seq BIGINT NOT NULL,
    at DOUBLE PRECISION NOT NULL,
    kind TEXT NOT NULL,
    data TEXT NOT NULL,
    hash TEXT NOT NULL,
    PRIMARY KEY (job, seq)
);
INSERT INTO minimax_code_store VALUES (1);
INSERT INTO jobs (id, created_at, spec, wish, outcome, owner, token, lease_until, seq, hash, worked_s, told)
    VALUES ('job-0123456789', 1772366400.25, '{}', 'run', NULL, 'old-machine-41', 1, 1772366430.75, 4, '0fbc60da5b6bcd173fb2f19ccfd6393d12814a8842b0708ee500dd9a834768ae', 0.0, 0);
INSERT INTO jobs (id, created_at, spec, wish, outcome, owner, token, lease_until, seq, hash, worked_s, told)
    VALUES ('job-9876543210', 1772366402.0, '{}', 'run', 'passed', 'old-machine-41', 1, 1772366432.5, 2, '6d5619d1ba57de38ba20e7ff507f5f3c7d2651d39f65157a9742cb8ce166b1d0', 0.0, 0);
INSERT INTO events VALUES ('job-0123456789', 1, 1772366401.0, 'WorkerStarted', '{"worker": "old-machine-41", "token": 1, "version": "0.1"}', 'd3e807133d04fd70f967ca2644bde36032d0dd2dc58dad1c76b34b9b01f35773');
INSERT INTO events VALUES ('job-0123456789', 2, 1772366401.25, 'ToolIntended', '{"agent": "", "call": {"id": "call-0", "name": "add", "arguments": "{}"}, "tree": "0"}', '2f5791aef57a8dbb8da002e17019b6b797da6ecedf00db0940a484ade40bb09a');
INSERT INTO events VALUES ('job-0123456789', 3, 1772366401.5, 'ToolEnded', '{"agent": "", "call_id": "call-0", "output": "added", "failed": false, "tree": "1", "seconds": 0.0, "receipt": null}', '255d0cc64f4b6cc6e9a146e03633998b596d7933601e0641eda88f46ff4e7341');
INSERT INTO events VALUES ('job-0123456789', 4, 1772366401.75, 'ToolIntended', '{"agent": "", "call": {"id": "call-1", "name": "add", "arguments": "{}"}, "tree": "1"}', '0fbc60da5b6bcd173fb2f19ccfd6393d12814a8842b0708ee500dd9a834768ae');
INSERT INTO events VALUES ('job-9876543210', 1, 1772366402.75, 'WorkerStarted', '{"worker": "old-machine-41", "token": 1, "version": "0.1"}', 'd7f61690f54716fa092d9b4510fc18ac914d1ae34cecf4d188b4a0aae2058b6e');
INSERT INTO events VALUES ('job-9876543210', 2, 1772366403.0, 'TaskEnded', '{"result": {"state": "passed"}}', '6d5619d1ba57de38ba20e7ff507f5f3c7d2651d39f65157a9742cb8ce166b1d0');
