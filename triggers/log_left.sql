-- template: log_left
-- version: 1
-- parameters: word
-- An UPDATE that takes a row to another partition deletes it here and inserts it there. What it held is left for the trigger over there,
-- which fires next.

    PERFORM pg_catalog.set_config('zdm.left', (ARRAY[{word}]::pg_catalog.text[])::pg_catalog.text, true);
