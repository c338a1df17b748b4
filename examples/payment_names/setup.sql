CREATE TABLE payment_transactions (
  id serial PRIMARY KEY,
  type text NOT NULL DEFAULT 'card',
  reference text,
  voided_value numeric(12, 3) NOT NULL DEFAULT 0
);
CREATE INDEX payment_transactions_reference_idx ON payment_transactions (reference);
CREATE TABLE payment_events (id serial PRIMARY KEY, transaction_id integer REFERENCES payment_transactions, name text);
INSERT INTO payment_transactions (reference) SELECT 'psp-' || g FROM generate_series(1, 300) g;
INSERT INTO payment_events (transaction_id, name) SELECT g, 'created' FROM generate_series(1, 300) g;
