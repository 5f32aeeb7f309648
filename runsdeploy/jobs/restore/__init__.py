"""Restores: an archive and paths come in; a plan comes out, then all files are replaced or none.

A plan changes nothing; a restore can be continued and undone. Commands call it, and a run before it begins.
"""
