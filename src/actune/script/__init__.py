"""The script language: words with action tags, its events, parser, automaton and spellings. Needs no torch."""
