"""The worker: drain shifts, and the reconciliation as a cron job."""
