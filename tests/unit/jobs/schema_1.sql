-- The first schema of jobs.database, with a job that has published a version and one that is queued.
CREATE TABLE files (
    id VARCHAR(64) NOT NULL PRIMARY KEY, tenant VARCHAR(64) NOT NULL, filename TEXT NOT NULL, bytes BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX ix_files_tenant ON files (tenant);
CREATE TABLE jobs (
    id VARCHAR(64) NOT NULL PRIMARY KEY, tenant VARCHAR(64) NOT NULL, created_at FLOAT NOT NULL,
    status VARCHAR(16) NOT NULL, model VARCHAR(128) NOT NULL, name VARCHAR(64) NOT NULL,
    training_file VARCHAR(64) NOT NULL, validation_file VARCHAR(64), suffix VARCHAR(64), settings JSON NOT NULL,
    hyperparameters JSON NOT NULL, job_metadata JSON, started_at FLOAT, finished_at FLOAT, estimated_finish FLOAT,
    trained_tokens BIGINT, trained_s FLOAT NOT NULL, version INTEGER, error JSON, requested VARCHAR(16),
    lease_until FLOAT, attempt INTEGER NOT NULL
);
CREATE INDEX ix_jobs_status ON jobs (status);
CREATE INDEX ix_jobs_tenant ON jobs (tenant);
CREATE TABLE schema_version (version INTEGER NOT NULL);
CREATE TABLE events (
    job VARCHAR(64) NOT NULL, number INTEGER NOT NULL, created_at FLOAT NOT NULL, level VARCHAR(8) NOT NULL,
    type VARCHAR(16) NOT NULL, message TEXT NOT NULL, data JSON, PRIMARY KEY (job, number),
    FOREIGN KEY(job) REFERENCES jobs (id) ON DELETE CASCADE
);
INSERT INTO schema_version VALUES (1);
INSERT INTO jobs (id, tenant, created_at, status, model, name, training_file, settings, hyperparameters, finished_at, trained_s, version, attempt)
VALUES ('ftjob-1', 'acme', 1000, 'succeeded', 'characters', 'book', 'file-1', '{"seed": 0}', '{}', 2000, 60, 1, 1);
INSERT INTO jobs (id, tenant, created_at, status, model, name, training_file, settings, hyperparameters, trained_s, attempt)
VALUES ('ftjob-2', 'acme', 3000, 'queued', 'characters', 'book', 'file-1', '{"seed": 0}', '{}', 0, 0);
INSERT INTO events VALUES ('ftjob-1', 1, 1000, 'info', 'metrics', 'epoch 1', '{"epoch": 1, "is_best": true, "validation_loss": 1.5}');
