"""Pure rules without input or output: states, runs, tasks, schedules, cron, ids."""
