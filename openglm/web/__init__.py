"""Answers with sources: search, fetch, extract, retrieve, and check every citation."""
