-- What `pgbench -i --foreign-keys` makes, at a size for a demonstration.
CREATE TABLE pgbench_branches (bid integer NOT NULL PRIMARY KEY, bbalance integer, filler character(88)) WITH (fillfactor = 100);
CREATE TABLE pgbench_tellers (
  tid integer NOT NULL PRIMARY KEY, bid integer, tbalance integer, filler character(84)
) WITH (fillfactor = 100);
CREATE TABLE pgbench_accounts (
  aid integer NOT NULL PRIMARY KEY, bid integer, abalance integer, filler character(84)
) WITH (fillfactor = 100);
CREATE TABLE pgbench_history (
  tid integer, bid integer, aid integer, delta integer, mtime timestamp without time zone, filler character(22)
);
ALTER TABLE pgbench_tellers ADD CONSTRAINT pgbench_tellers_bid_fkey FOREIGN KEY (bid) REFERENCES pgbench_branches;
ALTER TABLE pgbench_accounts ADD CONSTRAINT pgbench_accounts_bid_fkey FOREIGN KEY (bid) REFERENCES pgbench_branches;
ALTER TABLE pgbench_history ADD CONSTRAINT pgbench_history_bid_fkey FOREIGN KEY (bid) REFERENCES pgbench_branches;
ALTER TABLE pgbench_history ADD CONSTRAINT pgbench_history_tid_fkey FOREIGN KEY (tid) REFERENCES pgbench_tellers;
ALTER TABLE pgbench_history ADD CONSTRAINT pgbench_history_aid_fkey FOREIGN KEY (aid) REFERENCES pgbench_accounts;
INSERT INTO pgbench_branches SELECT g, 0 FROM generate_series(1, 3) g;
INSERT INTO pgbench_tellers SELECT g, g % 3 + 1, 0 FROM generate_series(1, 30) g;
INSERT INTO pgbench_accounts SELECT g, g % 3 + 1, 0, '' FROM generate_series(1, 600) g;
