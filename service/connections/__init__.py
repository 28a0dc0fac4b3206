"""HTTP/1.1 connections of `loupe serve`: uvicorn's, with their faults mended."""
