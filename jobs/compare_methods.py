#!/usr/bin/env python3
r"""Compare update methods on a cluster.

    ray job submit --working-dir . -- python jobs/compare_methods.py \
        /shared/ml-25m --out /shared/runs/ml-25m --profile paper --workers 8

Takes the options of `backstay compare`. Paths must be reachable from the cluster's machines: object
store URLs, or folders that they share.
"""

from _driver import drive

if __name__ == "__main__":
    drive("compare")
