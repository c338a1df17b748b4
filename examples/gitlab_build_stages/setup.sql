-- A continuous integration server: pipelines and their builds, each of which says by name in which stage it runs.
CREATE TABLE ci_pipelines (id bigserial PRIMARY KEY, ref text NOT NULL);
CREATE TABLE ci_builds (
  id bigserial PRIMARY KEY,
  pipeline_id bigint NOT NULL REFERENCES ci_pipelines ON DELETE CASCADE,
  name text NOT NULL,
  stage text,
  stage_idx int,
  status text NOT NULL DEFAULT 'created'
);
CREATE INDEX ON ci_builds (pipeline_id, status);

INSERT INTO ci_pipelines (ref) SELECT 'branch-' || g FROM generate_series(1, 40) g;
-- Every pipeline has its own build, test and deploy; some builds are in none.
INSERT INTO ci_builds (pipeline_id, name, stage, stage_idx)
SELECT g % 40 + 1, 'job ' || g, (ARRAY['build', 'test', 'deploy', NULL])[g % 7 / 2 + 1], g % 7 / 2 FROM generate_series(1, 400) g;
