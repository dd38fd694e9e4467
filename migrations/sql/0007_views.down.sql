DROP VIEW invariant_violation, role_status, job_status, bucket_gap, posting, execution, reconciliation, order_in_doubt, performance, equity, holding, allowance;
