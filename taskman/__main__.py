"""`python -m taskman` is the `taskman` command."""

from .cli import main

if __name__ == "__main__":
    main()
