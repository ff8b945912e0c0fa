"""Requests and connections: bodies, limits, refusals, the log, the page."""
