"""Whether the distillation does what it says, and which ingredient does what."""
