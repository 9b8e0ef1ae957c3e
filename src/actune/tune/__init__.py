"""Rows become a run."""
