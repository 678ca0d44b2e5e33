"""The command line: words in, a verb of the packages below, a table or JSON out.

Owns the commands, their output and their exit codes. Promises: `--help` imports nothing heavy, every command takes `--json`,
every error says what was wrong, what was received and what to do, and ends with its documented exit code.
May import: everything below; typer and rich are imported here alone. Command bodies import their verb late.
"""
