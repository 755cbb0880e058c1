"""`python -m storjfs` is the command `storjfs`."""

from storjfs.cli import main

if __name__ == "__main__":
    main()
