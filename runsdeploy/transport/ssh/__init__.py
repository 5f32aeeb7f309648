"""Log in to a host with paramiko. In: a host's settings, its known keys, the operator's keys or password.

Out: an `SshConnection`, which is a `Transport`, or Unreachable.
Loading paramiko takes more than 100 ms: callers import these modules late, inside functions.
"""
