"""`backstay plan`: machines, hours and money, from the measured speed of one core."""
