"""The web server: API, pages and live streams."""
