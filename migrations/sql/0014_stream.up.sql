-- The venue's user-data stream: one more way in which a fill becomes known, and a switch for each account.

ALTER TYPE fill_source ADD VALUE 'stream';
COMMENT ON COLUMN fill.source IS 'How we learned of it first: the answer to our request, a look-up of an order in doubt, the regular poll, the venue''s stream, or reconciliation, which finds what the others missed.';

ALTER TABLE account ADD COLUMN stream boolean NOT NULL DEFAULT true;
COMMENT ON COLUMN account.stream IS 'False: what happens to its orders is learned from answers, look-ups and polls alone, not from the venue''s websocket.';
GRANT UPDATE (stream) ON account TO tallydesk_user;
