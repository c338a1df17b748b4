-- template: function_both
-- version: 1
-- parameters: function, settings, quote, declare, enter, groups, leave
-- Rule 4. Fires where the statement named both sides of a group: if they disagree, the group's conflict policy decides.

CREATE OR REPLACE FUNCTION {function}() RETURNS pg_catalog.trigger LANGUAGE plpgsql{settings} AS {quote}
DECLARE
  zdm_agree boolean;
{declare}
BEGIN
{enter}
{groups}
{leave}
  RETURN NEW;
END
{quote}
