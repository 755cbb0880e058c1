"""The mount process: builds a drive from the rooms below, runs it, tells how it is, ends it cleanly."""
