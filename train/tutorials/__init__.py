"""Five well-known tutorials, trained and compared with what they report."""
