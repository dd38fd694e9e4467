REVOKE UPDATE (stream) ON account FROM tallydesk_user;
ALTER TABLE account DROP COLUMN stream;

-- A value cannot be taken out of a type: a new type, and "poll", which would have brought them, for what the stream brought.
-- The view execution shows the column: it is made again as it was.
DO $$
DECLARE
  later text[];
  statement text;
BEGIN
  SELECT ARRAY[format('CREATE VIEW execution AS %s', pg_get_viewdef(c.oid)), format('COMMENT ON VIEW execution IS %L', obj_description(c.oid, 'pg_class')),
               'GRANT SELECT ON execution TO tallydesk_reader, tallydesk_user']
         || (SELECT array_agg(format('COMMENT ON COLUMN execution.%I IS %L', attname, col_description(c.oid, attnum)) ORDER BY attnum) FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0)
    INTO later FROM pg_class c WHERE c.oid = 'execution'::regclass;
  DROP VIEW execution;
  ALTER TYPE fill_source RENAME TO fill_source_14;
  CREATE TYPE fill_source AS ENUM ('answer', 'look-up', 'poll', 'reconciliation');
  ALTER TABLE fill ALTER COLUMN source TYPE fill_source USING (CASE source::text WHEN 'stream' THEN 'poll' ELSE source::text END)::fill_source;
  DROP TYPE fill_source_14;
  FOREACH statement IN ARRAY later LOOP
    EXECUTE statement;
  END LOOP;
END $$;
COMMENT ON COLUMN fill.source IS 'How we learned of it: the answer to our request, a look-up of an order in doubt, the regular poll, or reconciliation, which finds what the others missed.';
