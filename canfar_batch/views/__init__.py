"""What users look at: text, tables, reports, timelines. No I/O but for the files that they are shipped with."""
