CREATE TABLE sessions (id serial PRIMARY KEY, started_at timestamp NOT NULL, ended_at timestamp);
CREATE TABLE audit_entries (id serial PRIMARY KEY, at timestamp NOT NULL, what text);
CREATE INDEX audit_entries_at_idx ON audit_entries USING brin (at);
INSERT INTO sessions (started_at, ended_at)
  SELECT timestamp '2024-03-30 12:00' + g * interval '1 hour', CASE WHEN g % 2 = 0 THEN timestamp '2024-06-01' END
  FROM generate_series(1, 300) g;
INSERT INTO audit_entries (at, what) SELECT timestamp '2024-01-01' + g * interval '1 day', 'x' FROM generate_series(1, 300) g;
