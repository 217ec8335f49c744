"""The planner of large runs: what a step of a job costs in memory and time, layout by layout."""
