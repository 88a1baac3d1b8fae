"""Whether reinforcement does what it says, and which ingredient does what."""
