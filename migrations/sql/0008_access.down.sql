-- The roles stay: they belong to the server and may be in use by other databases.
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM tallydesk_reader, tallydesk_user;
REVOKE USAGE ON SCHEMA public FROM tallydesk_reader, tallydesk_user;
DO $$
DECLARE
  name regprocedure;
BEGIN
  FOR name IN SELECT p.oid FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND p.prosecdef LOOP
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO PUBLIC', name);
  END LOOP;
END $$;
