"""Archives: a manifest and staged files come in and a verified archive comes out; or an archive in, files out.

The formats are here: manifest, tar, gzip, historical archives. All rooms that read or write backups call it.
"""
