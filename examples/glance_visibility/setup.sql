CREATE TABLE images (
  id serial PRIMARY KEY,
  name text NOT NULL,
  is_public boolean NOT NULL DEFAULT false,
  deleted boolean NOT NULL DEFAULT false
);
CREATE INDEX ix_images_is_public ON images (is_public);
INSERT INTO images (name, is_public) SELECT 'image ' || g, g % 3 = 0 FROM generate_series(1, 300) g;
