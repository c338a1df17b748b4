CREATE TABLE providers (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  tenant_id uuid NOT NULL,
  provider_name varchar(255) NOT NULL,
  encrypted_config text,
  is_valid boolean NOT NULL DEFAULT false,
  updated_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (tenant_id, provider_name)
);
INSERT INTO providers (tenant_id, provider_name, encrypted_config, is_valid)
SELECT md5('tenant' || g % 40)::uuid, 'provider' || g, CASE g % 4 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE 'secret' || g END, g % 4 > 1
FROM generate_series(1, 300) AS g;
