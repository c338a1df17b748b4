-- Settings of everything, one row for each: of the whole site, and of single users.
CREATE TABLE users (
  id bigserial PRIMARY KEY,
  email varchar NOT NULL UNIQUE
);

CREATE TABLE settings (
  id bigserial PRIMARY KEY,
  var varchar NOT NULL,
  value text,
  thing_type varchar,
  thing_id bigint,
  created_at timestamptz DEFAULT now(),
  UNIQUE (thing_type, thing_id, var)
);

INSERT INTO users (email) SELECT 'user' || g || '@example.org' FROM generate_series(1, 300) g;

INSERT INTO settings (var, value) VALUES ('site_title', 'Example'), ('theme', 'default');

-- Most users have some; what they never chose has no row.
INSERT INTO settings (var, value, thing_type, thing_id)
SELECT v.var, v.value, 'User', g
FROM generate_series(1, 300) g,
     LATERAL (VALUES ('theme', CASE WHEN g % 2 = 0 THEN 'contrast' ELSE 'light' END),
                     ('noindex', CASE WHEN g % 3 = 0 THEN 'true' ELSE 'false' END),
                     ('default_privacy', 'private'),
                     ('delete_modal', 'false')) AS v (var, value)
WHERE (g + length(v.var)) % 4 > 0;
