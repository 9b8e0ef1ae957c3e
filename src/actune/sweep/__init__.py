"""Rows and a base -> which options act best, by cross-validated trainings."""
