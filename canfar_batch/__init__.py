"""Batch jobs on the CANFAR Science Platform."""
