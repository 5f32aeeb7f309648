"""The exit statuses of all commands (SPEC 7), each defined once; `docs/reference/commands.md` explains them."""

OK = 0
FAILED = 1
"""a step failed or was killed; for a query: something is missing"""
BAD_INPUT = 2
"""nothing was touched"""
UNUSABLE = 3
"""a host could not be reached, refused, or was lost"""
LOCKED = 4
"""another session works on a host"""
CHANGES = 6
"""`--exit-code`: a deploy would change something"""
UNFORESEEN = 70
"""an exception that nobody expected (EX_SOFTWARE, sysexits.h)"""
MACHINE_FAILED = 74
"""this machine could not read or write what is needed (EX_IOERR, sysexits.h)"""
TIMEOUT = 124
"""a step took longer than it may, as timeout(1) ends"""
SIGNALLED = 128
"""plus the number of the signal that interrupted the command, as shells report it"""
PIPE_CLOSED = 141
"""who read the output is gone: SIGNALLED plus SIGPIPE"""
