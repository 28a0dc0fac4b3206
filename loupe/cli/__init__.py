"""The command line: the group `loupe`, its examples, and the commands that concern all programs."""
