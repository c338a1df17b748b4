CREATE TABLE subscribers (id serial PRIMARY KEY, email text NOT NULL, list integer NOT NULL DEFAULT 1);
INSERT INTO subscribers (email) SELECT 'person' || g || '@example.org' FROM generate_series(1, 300) g;
