"""Settings: two JSON files come in, settings and catalogue; an agenda comes out: what one run will do.

Pure except for reading the two files; every error has its line and column. Commands and runs call it.
"""
