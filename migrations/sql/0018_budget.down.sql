DROP VIEW budget;
DROP TABLE rate_budget;
DROP FUNCTION rate_budget_blocked();
