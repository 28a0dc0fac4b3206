"""Archives of pictures: zips, tars, and the samples of WebDataset."""
