"""Starts the shim from a file: isolated as it is, Python looks nowhere for a package by itself."""

import os
import sys

if __name__ == "__main__":
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from shim.service import main  # type: ignore[import-not-found]  # this package, by the path above

    main()
