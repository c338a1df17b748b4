-- A chat application: conversations of users, with what else is known of them in a JSON document.
CREATE TABLE users (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), email text NOT NULL UNIQUE);
CREATE TABLE conversations (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
  title text,
  metadata jsonb
);
CREATE INDEX ON conversations (user_id);

INSERT INTO users SELECT ('00000000-0000-4000-8000-' || lpad(g::text, 12, '0'))::uuid, 'user' || g FROM generate_series(1, 20) g;
-- Some share a category, some differ by case only, some have none, or no document at all.
INSERT INTO conversations
SELECT ('00000000-0000-4000-9000-' || lpad(g::text, 12, '0'))::uuid, ('00000000-0000-4000-8000-' || lpad((g % 20 + 1)::text, 12, '0'))::uuid,
       'talk ' || g,
       CASE g % 6
         WHEN 0 THEN '{"category": "work", "model": "large"}'
         WHEN 1 THEN '{"category": "Work"}'
         WHEN 2 THEN jsonb_build_object('category', 'project ' || g % 10, 'pinned', true)
         WHEN 3 THEN '{"category": null}'
         WHEN 4 THEN '{"model": "small"}'
       END::jsonb
FROM generate_series(1, 300) g;
