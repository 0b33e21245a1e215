"""From columns, grids and tables to the jobs of a batch: what the user asks for, before anything is launched.

`rows` makes rows of values, `jobs` the records of jobs, `compare` a plan against the jobs that the batch has;
`reopening` opens final jobs again, `preflight` checks a batch before it runs, `estimate` says what it will cost.
"""
