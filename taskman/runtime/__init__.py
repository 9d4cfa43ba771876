"""The actors: scheduler, watchdog, worker, attempt, process trees."""
