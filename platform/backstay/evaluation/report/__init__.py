"""Renders an analysis as a page, a text, plots and a table."""
