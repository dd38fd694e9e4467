-- The roles stay: they belong to the server and may be in use by other databases.
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM tallydesk_reader, tallydesk_user;
REVOKE USAGE ON SCHEMA public FROM tallydesk_reader, tallydesk_user;
