"""Arrays of images in files: headers, shapes and values of NumPy, IDX and CSV files."""
