#!/usr/bin/env python3
r"""Search the compatibility weight on a cluster.

    ray job submit --working-dir . -- python jobs/tune_weight.py \
        /shared/ml-25m --out /shared/runs/weights --trials 16 --workers 8

Takes the options of `backstay tune`. Paths must be reachable from the cluster's machines: object
store URLs, or folders that they share.
"""

from _driver import drive

if __name__ == "__main__":
    drive("tune")
