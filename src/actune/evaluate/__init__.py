"""Rows and actors in, scores with intervals out."""
