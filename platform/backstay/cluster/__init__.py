"""Where Backstay meets Ray: starting and joining it, and its output."""
