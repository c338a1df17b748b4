-- A shop: products with their tags in a JSON array, as it was quick to write once.
CREATE TABLE products (
  id bigserial PRIMARY KEY,
  title text NOT NULL,
  tags jsonb NOT NULL DEFAULT '[]'
);

-- Most have some, in an order that somebody chose; some none; one tag holds a comma.
INSERT INTO products (title, tags)
SELECT 'product ' || g,
       CASE g % 5
         WHEN 0 THEN '["sale", "new"]'
         WHEN 1 THEN '["new", "blue, dark", "sale"]'
         WHEN 2 THEN jsonb_build_array('range ' || g % 10)
         ELSE '[]'
       END::jsonb
FROM generate_series(1, 300) g;
