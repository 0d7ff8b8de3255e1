"""Files: whole or not there, on a local folder or any fsspec file system."""
