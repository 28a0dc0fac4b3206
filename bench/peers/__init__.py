"""The servers that Loupe is compared with; they import nothing of Loupe."""
