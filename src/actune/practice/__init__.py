"""The practice corpus: rows of our own that teach a base to act before it sees the user's rows."""
