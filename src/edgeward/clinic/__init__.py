"""Floor 5: applications, and what delivers their results."""
