"""Fair queues: who gets the next slot (pure schedulers), and how callers wait for it (in process, over Redis)."""
