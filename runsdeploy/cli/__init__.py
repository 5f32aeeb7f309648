"""The command line: flags, settings, completion, and the table of commands.

In: the words of a command line, the environment, configuration files.
Out: the exit status of the command that ran.
Asked by: the terminal and `runsdeploy.namespace`.
Verbs: `main.main`, `parser.split`, `settings.resolve`.
"""
