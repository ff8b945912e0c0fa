"""Bundles behind HTTP: the Open Inference Protocol, limits, metrics, reload, and a page to try them on."""
