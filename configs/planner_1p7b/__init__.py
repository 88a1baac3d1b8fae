"""Runs of the released 1.7B planner."""
