-- What `pgbench -i` makes, at a size for a demonstration.
CREATE TABLE pgbench_branches (bid integer NOT NULL PRIMARY KEY, bbalance integer, filler character(88));
CREATE TABLE pgbench_accounts (
  aid integer NOT NULL PRIMARY KEY,
  bid integer REFERENCES pgbench_branches,
  abalance integer,
  filler character(84)
);
INSERT INTO pgbench_branches SELECT g, 0, '' FROM generate_series(1, 3) g;
INSERT INTO pgbench_accounts SELECT g, g % 3 + 1, g * 7 - 1000, 'EUR note ' || g FROM generate_series(1, 600) g;
