"""Questions about the planner."""
