CREATE TABLE users (id bigint PRIMARY KEY, name text NOT NULL);
CREATE TABLE events (
  id bigserial PRIMARY KEY,
  user_id bigint REFERENCES users ON DELETE SET NULL,
  kind varchar(40) NOT NULL,
  payload jsonb NOT NULL DEFAULT '{}',
  happened_at timestamptz NOT NULL DEFAULT '2024-03-05'
);
CREATE INDEX events_user ON events (user_id, happened_at DESC);
CREATE INDEX events_payload ON events USING gin (payload);
COMMENT ON TABLE events IS 'what users did';
INSERT INTO users SELECT g, 'user' || g FROM generate_series(1, 20) AS g;
INSERT INTO events (user_id, kind, payload, happened_at)
SELECT g % 20 + 1, 'seen', jsonb_build_object('page', g), timestamptz '2023-12-20' + g * interval '7 hours'
FROM generate_series(1, 300) AS g;
