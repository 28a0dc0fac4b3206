"""Tables of images: Parquet files, and CSV files with a column for each pixel."""
