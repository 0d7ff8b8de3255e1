"""The fitting loop in plain torch: no Ray, no files, any device."""
