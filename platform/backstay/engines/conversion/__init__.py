"""Batch conversion of tables into older versions, in this process or over Ray Data."""
