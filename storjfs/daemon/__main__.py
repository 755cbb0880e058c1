"""`python -m storjfs.daemon FD`: started by `storjfs mount`, not by people."""

import sys

from storjfs.daemon.main import run_in_background

if __name__ == "__main__":
    sys.exit(run_in_background(int(sys.argv[1])))
