CREATE TABLE checkout_checkout (
  token uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  email text,
  metadata jsonb DEFAULT '{}',
  private_metadata jsonb NOT NULL DEFAULT '{}'
);
-- Either column alone, both, neither, and NULL, which is not the same as empty.
INSERT INTO checkout_checkout (token, email, metadata, private_metadata)
SELECT ('00000000-0000-4000-8000-' || lpad(g::text, 12, '0'))::uuid, 'buyer' || g || '@example.org',
  CASE g % 5 WHEN 0 THEN '{}' WHEN 1 THEN '{"source": "shop"}' WHEN 2 THEN '{}' WHEN 3 THEN '{"a": 1.0}' ELSE NULL END::jsonb,
  CASE g % 5 WHEN 0 THEN '{}' WHEN 1 THEN '{}' WHEN 2 THEN '{"secret": true}' WHEN 3 THEN '{"b": 2}' ELSE '{}' END::jsonb
FROM generate_series(1, 300) AS g;
