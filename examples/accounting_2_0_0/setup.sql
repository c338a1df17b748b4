CREATE TABLE ledgers (id integer PRIMARY KEY, name text NOT NULL);
INSERT INTO ledgers SELECT g, 'ledger ' || g FROM generate_series(1, 20) g;
