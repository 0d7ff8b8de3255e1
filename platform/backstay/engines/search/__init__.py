"""`backstay tune`: Ray Tune searches the settings of a joint method."""
