"""The mount process: builds a drive from the rooms below, keeps it running, tells how it is, ends it cleanly."""
