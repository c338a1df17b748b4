CREATE TABLE accounts (
  id bigserial PRIMARY KEY,
  username text NOT NULL,
  domain text,
  statuses_count bigint NOT NULL DEFAULT 0,
  following_count bigint NOT NULL DEFAULT 0,
  followers_count bigint NOT NULL DEFAULT 0,
  updated_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (username, domain)
);
CREATE TABLE follows (
  id bigserial PRIMARY KEY,
  account_id bigint NOT NULL REFERENCES accounts ON DELETE CASCADE,
  target_account_id bigint NOT NULL REFERENCES accounts ON DELETE CASCADE
);
INSERT INTO accounts (username, domain, statuses_count, following_count, followers_count)
SELECT 'user' || g, 'example.org', g * 3, g % 5, g % 11 FROM generate_series(1, 300) AS g;
