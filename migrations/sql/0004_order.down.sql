DROP VIEW orders;
DROP TRIGGER strategy_lane ON strategy;
DROP TABLE order_event, lane, "order";
DROP SEQUENCE fence;
DROP FUNCTION orders_change(), orders_insert(), find_market(text, strategy), check_amount(text, numeric), order_event_insert(), order_update(), order_insert(),
  order_step_exists(order_status, order_status), order_is_final(order_status), strategy_lane();
DROP TYPE order_status, order_side, order_type;
