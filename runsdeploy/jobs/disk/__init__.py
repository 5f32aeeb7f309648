"""The disk: durable files, the lock of a backup directory, the journal of a run.

Bytes come in; when a call returns they survive a power cut. All rooms that write call it.
"""
