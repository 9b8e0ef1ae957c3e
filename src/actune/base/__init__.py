"""The model before tuning: where it comes from and how it is loaded."""
