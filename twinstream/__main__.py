"""`python -m twinstream` is the command `twinstream`."""

from twinstream.cli import main

if __name__ == "__main__":
    main()
