"""The subcommands of `loupe` that are groups of their own. Each imports its program only when it runs."""
