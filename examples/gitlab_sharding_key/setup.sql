-- A tracker: issues of projects, which move from one project to another now and then, and who is assigned to them.
CREATE TABLE projects (id bigserial PRIMARY KEY, path text NOT NULL);
CREATE TABLE issues (
  id bigserial PRIMARY KEY,
  project_id bigint NOT NULL REFERENCES projects ON DELETE CASCADE,
  title text NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON issues (project_id);
-- Rows of a table like this one are to live with their project's, on whichever server that is; so far nothing in them says which it is.
CREATE TABLE issue_assignees (
  user_id bigint NOT NULL,
  issue_id bigint NOT NULL REFERENCES issues ON DELETE CASCADE,
  PRIMARY KEY (issue_id, user_id)
);
CREATE INDEX ON issue_assignees (user_id);

INSERT INTO projects (path) SELECT 'group/project-' || g FROM generate_series(1, 40) g;
INSERT INTO issues (project_id, title)
SELECT CASE WHEN g <= 150 THEN g % 30 + 1 ELSE g % 10 + 31 END, 'issue ' || g FROM generate_series(1, 200) g;
INSERT INTO issue_assignees (user_id, issue_id) SELECT g, g % 200 + 1 FROM generate_series(1, 400) g;
