"""Entry point of `rewindctl` and of `python -m rewindctl`."""

from rewindctl.cli import main

if __name__ == "__main__":
    main()
