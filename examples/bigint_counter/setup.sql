CREATE TABLE page_views (
  page text PRIMARY KEY,
  views integer NOT NULL DEFAULT 0 CONSTRAINT page_views_not_negative CHECK (views >= 0)
);
CREATE INDEX page_views_most ON page_views (views DESC) INCLUDE (page) WHERE views > 10;
COMMENT ON COLUMN page_views.views IS 'since the beginning';
INSERT INTO page_views SELECT 'page-' || g, g * 3 FROM generate_series(1, 300) g;
