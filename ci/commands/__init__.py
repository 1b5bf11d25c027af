"""The roof: what a person types, a module a group (`va env`, `va release`, …), and how a command answers.

    cli.py       all of them, put together
    answers.py   a table or JSON on stdout, progress on stderr, an error as message, hint and exit code
    options.py   the options that several of them share

A command reads its arguments, calls `pipelines` or a room of `ci`, and shows what comes back. It may call
everything below; nothing calls it. A new command goes into the module of its group, with an example in its
help.
"""
