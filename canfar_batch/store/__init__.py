"""A batch's directory and its ledger: the only package that uses SQL."""
