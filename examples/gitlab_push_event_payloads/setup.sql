CREATE TABLE events (
  id serial PRIMARY KEY,
  project_id integer,
  author_id integer NOT NULL,
  action smallint NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE push_event_payloads (
  commit_count bigint NOT NULL,
  event_id integer NOT NULL PRIMARY KEY,
  action smallint NOT NULL,
  ref_type smallint NOT NULL,
  commit_from bytea,
  commit_to bytea,
  ref text,
  commit_title varchar(70),
  ref_count integer,
  CONSTRAINT fk_36c74129da FOREIGN KEY (event_id) REFERENCES events (id) ON DELETE CASCADE
);
CREATE INDEX index_events_author_id_project_id ON events (author_id, project_id, created_at, id DESC);
INSERT INTO events (project_id, author_id, action) SELECT g % 7, g % 11, 5 FROM generate_series(1, 300) g;
INSERT INTO push_event_payloads (commit_count, event_id, action, ref_type, commit_to, ref)
  SELECT 1, id, 2, 0, decode(md5(id::text), 'hex'), 'main' FROM events;
