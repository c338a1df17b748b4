CREATE TABLE ledger_entries (
  entry_id bigserial PRIMARY KEY,
  amount numeric(12,2) NOT NULL,
  description text,
  created_at timestamptz NOT NULL DEFAULT now(),
  status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'inactive', 'draft'))
);
INSERT INTO ledger_entries (amount, description, status)
SELECT g * 1.5, 'entry ' || g, (ARRAY['active', 'inactive', 'draft'])[g % 3 + 1] FROM generate_series(1, 300) AS g;
