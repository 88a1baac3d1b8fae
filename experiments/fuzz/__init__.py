"""Random and hostile requests, through the same doors that users go through."""
