-- Of orders that one decision made, all but the first lose their candle, which had one order before this step.
DROP VIEW decisions, order_origin;
REVOKE UPDATE (schedule) ON strategy FROM tallydesk_user;
REVOKE UPDATE (decision_keep) ON setting FROM tallydesk_user;
DROP TABLE decision, strategy_state;
DROP TYPE decision_action;
DROP FUNCTION decision_kept(), decision_due(text, timestamptz, timestamptz), last_scheduled(text, timestamptz);
DROP INDEX one_order_per_strategy_and_candle;
DROP TRIGGER bucket_part_fixed ON "order";
ALTER TABLE "order" DISABLE TRIGGER USER;  -- what was asked is fixed
UPDATE "order" SET bucket_time = NULL WHERE bucket_part > 1;
ALTER TABLE "order" ENABLE TRIGGER USER;
ALTER TABLE "order" DROP COLUMN bucket_part;
CREATE UNIQUE INDEX one_order_per_strategy_and_candle ON "order" (strategy_id, bucket_time) WHERE bucket_time IS NOT NULL;
COMMENT ON COLUMN "order".bucket_time IS 'The close of the candle that it answers; at most one order per strategy and candle.';
DROP TRIGGER strategy_schedule ON strategy;
DROP FUNCTION strategy_schedule();
ALTER TABLE strategy DROP COLUMN schedule;
ALTER TABLE setting DROP COLUMN decision_keep;
