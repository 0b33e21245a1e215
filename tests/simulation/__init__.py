"""A simulated platform on a held clock, on which a batch of weeks is driven in milliseconds, with the real engine."""
