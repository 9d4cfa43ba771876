"""The Jinja templates of the pages; found through importlib.resources only."""
