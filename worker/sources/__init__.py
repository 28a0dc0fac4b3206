"""Sources of images: folders, patterns, archives, tables and arrays."""
