"""Ways to a machine.

In: a host's address, ssh's configuration, known hosts and keys, and the command to run there.
Out: a `Transport` whose `Channel`s carry the bytes of commands, or a HostError.
Asked by: `session`, `rollout` and `commands`. Modules in `ssh` load paramiko and are imported late.
Verbs: `host_connection.HostConnection`, `ssh.connecting.connect`, `known_hosts.check`.
"""
