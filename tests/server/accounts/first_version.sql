-- What version 0001 makes in SQLite, with a key, what it has used, and a request that a killed process has left.
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num));
INSERT INTO alembic_version VALUES ('0001');
CREATE TABLE keys (
    id TEXT NOT NULL, digest BLOB NOT NULL, old_digest BLOB, old_until DOUBLE, name TEXT NOT NULL, "plan" TEXT NOT NULL,
    created_at DOUBLE NOT NULL, expires_at DOUBLE, revoked_at DOUBLE, PRIMARY KEY (id)
);
CREATE TABLE processes (id TEXT NOT NULL, lease_until DOUBLE NOT NULL, PRIMARY KEY (id));
CREATE TABLE requests (
    id TEXT NOT NULL, key_id TEXT NOT NULL, process_id TEXT NOT NULL, model TEXT NOT NULL, day TEXT NOT NULL,
    started_at DOUBLE NOT NULL, reserved BIGINT NOT NULL, prompt_tokens BIGINT NOT NULL, granted BIGINT NOT NULL,
    settled_at DOUBLE, PRIMARY KEY (id), FOREIGN KEY(key_id) REFERENCES keys (id)
);
CREATE TABLE usage (
    key_id TEXT NOT NULL, day TEXT NOT NULL, model TEXT NOT NULL, requests BIGINT NOT NULL,
    prompt_tokens BIGINT NOT NULL, answer_tokens BIGINT NOT NULL, PRIMARY KEY (key_id, day, model),
    FOREIGN KEY(key_id) REFERENCES keys (id)
);
CREATE INDEX requests_of_key ON requests (key_id, started_at);
-- The key is om3_mykzv3lsq7kjqamn_qxPxv2U8HV-0LwUnXJkD27AUxlVAALvkT2KfmecGOrk; it is good for nothing else.
INSERT INTO keys VALUES (
    'om3_mykzv3lsq7kjqamn', X'2FB21781367904A7FD40D8F5393A05F7F9C170DACF62FA98AA14798FB2D6DA01',
    NULL, NULL, 'old', 'plus', 1795656324.6, NULL, NULL
);
INSERT INTO processes VALUES ('gone', 1795656400.0);
INSERT INTO requests VALUES ('cut', 'om3_mykzv3lsq7kjqamn', 'gone', 'm', '2026-11-26', 1795656390.0, 40, 7, 64, NULL);
INSERT INTO usage VALUES ('om3_mykzv3lsq7kjqamn', '2026-11-26', 'm', 3, 10, 28);
