"""Run the command line as ``python -m repstat``."""

from repstat.cli import main

if __name__ == "__main__":
    main()
