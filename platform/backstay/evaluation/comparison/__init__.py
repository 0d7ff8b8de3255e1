"""A comparison of update methods: plan, cells, run, results."""
