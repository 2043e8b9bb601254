---
dlm_id: 01JTRX0000000000000000000C
dlm_version: 15
base_model: smollm2-135m
---
## Heron deployment notes

Heron is our service for sending invoices. It runs on three machines in Frankfurt and one in Dublin. The main database is Postgres 15, and the replica lags by at most two seconds. Every invoice gets a number with nine digits. Numbers that start with 7 belong to the test customers.

- A job is a request to send one invoice.
- Failed jobs are retried five times with a pause of ten minutes.
- After the fifth failure the job moves to the quarantine queue.
- The on-call engineer must empty the quarantine queue every morning.

To restart Heron, run `heronctl restart --drain` on the bastion host. The option --drain waits until the running jobs are finished. Without it, running jobs are lost. A restart takes about 90 seconds. Don't restart Heron between 23:00 and 01:00, because the tax export runs at that time.

::prose::
## Alerts

The alert QueueTooLong fires when more than 4000 jobs wait. It usually means that the mail provider is slow. Call the provider if the queue doesn't shrink within half an hour. The alert ReplicaLag fires at 30 seconds. A lag of more than five minutes pages the database team. Silence alerts in Grafana, not in the pager. Dashboards are kept in the repository heron-observability. The password of the read-only user is in the vault under heron/ro. Logs older than 30 days are deleted. Maria Lindqvist owns the billing rules, and Tomasz owns the mail templates.
