CREATE TABLE customers_eu (
  id bigserial PRIMARY KEY,
  name text NOT NULL,
  email text NOT NULL UNIQUE,
  vat_number varchar(20),
  active boolean NOT NULL DEFAULT true,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE customers_us (
  id bigserial PRIMARY KEY,
  name text NOT NULL,
  email text NOT NULL UNIQUE,
  tax_number varchar(20),
  state char(2) NOT NULL DEFAULT 'NY',
  status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'closed')),
  created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO customers_eu (name, email, vat_number, active)
SELECT 'Customer ' || g, 'eu' || g || '@example.com', 'DE' || g, g % 7 <> 0 FROM generate_series(1, 300) AS g;
INSERT INTO customers_us (name, email, tax_number, state, status)
SELECT 'Customer ' || g, 'us' || g || '@example.com', g::text, 'CA', CASE WHEN g % 5 = 0 THEN 'closed' ELSE 'open' END
FROM generate_series(1, 200) AS g;
