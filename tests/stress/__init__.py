"""Real programs that torture a mount, for as long as STORJFS_STRESS_SECONDS says."""
