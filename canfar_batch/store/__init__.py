"""A batch's directory and its durable memory: the only place that speaks SQL."""
