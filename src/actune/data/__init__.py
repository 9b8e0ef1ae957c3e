"""Spreadsheets of dialogues: read, checked, augmented. Needs no torch."""
