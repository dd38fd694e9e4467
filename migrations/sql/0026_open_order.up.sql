-- Each branch is the predicate of a partial index: what is not done is found at once, however much is done.
CREATE VIEW open_order AS
  SELECT id, strategy_id, account_id, market_id FROM "order" WHERE status < 'queued'
  UNION ALL SELECT id, strategy_id, account_id, market_id FROM "order" WHERE status = 'queued'
  UNION ALL SELECT id, strategy_id, account_id, market_id FROM "order" WHERE status = 'submitted'
  UNION ALL SELECT id, strategy_id, account_id, market_id FROM "order" WHERE status IN ('accepted', 'partially_filled', 'pending_cancel');
COMMENT ON VIEW open_order IS 'Orders that are not done. To find a strategy''s quickly, name its account, too.';
GRANT SELECT ON open_order TO tallydesk_reader, tallydesk_user;
COMMENT ON COLUMN open_order.account_id IS 'On which it is.';
COMMENT ON COLUMN open_order.market_id IS 'What it trades.';
