"""Commands: parsed arguments come in, results go to standard output, an exit status comes back.

They load settings and catalogue, take the lock where they write, and call the rooms below. Only `main` calls them.
"""
