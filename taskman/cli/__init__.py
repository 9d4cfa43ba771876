"""The command line."""

def main() -> None:
    """Placeholder until the CLI lands."""

