#!/usr/bin/env python3
r"""Compare update methods on a cluster.

    ray job submit --working-dir . -- python jobs/compare_methods.py \
        /shared/ml-25m --out /shared/runs/ml-25m --profile paper --workers 8

Takes the options of `backstay compare`. All machines of the cluster must be able to open
the paths: object store URLs, or shared folders.
"""

from _driver import drive

if __name__ == "__main__":
    drive("compare")
