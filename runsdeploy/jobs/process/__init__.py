"""Processes: a command comes in; its bounded output and how it ended come out; no process of it stays behind.

What commands need is here too: Kerberos tickets and secrets. Runs and restore commands call it.
"""
