"""Ways to a machine. In: a host's address, ssh's configuration, known hosts and keys, the command to run there.

Out: a `Transport` whose `Channel`s carry the bytes of commands, or a HostError.
Callers: `session`, `rollout` and `commands`. Modules that load paramiko are imported late.
"""
