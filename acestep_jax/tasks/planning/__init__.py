"""The planner: from a caption to a blueprint of the song and its audio codes, and back."""
