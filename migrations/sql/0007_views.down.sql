DROP VIEW invariant_violation, job_status, bucket_gap, reconciliation, order_in_doubt, performance, equity, holding, allowance;
