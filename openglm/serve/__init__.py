"""The server: HTTP interfaces, the web page, and the feedback that is kept."""
